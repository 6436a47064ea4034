//! `--rules`: the kernel's clients meet the stack's filter, before and after it was read again.

mod common;

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use bywash_afxdp::require_root;
use common::server::Server;
use common::{Bed, STACK4, STACK6, url, wait_until};

const RULES: &str = "\
*filter
:INPUT DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A INPUT -p tcp --dport 80 -m limit --limit 1000/second --limit-burst 1000 -j ACCEPT
-A INPUT -p tcp --dport 81 -j REJECT --reject-with tcp-reset
-A INPUT -p tcp --dport 82 -j REJECT --reject-with icmp-admin-prohibited
-A INPUT -p ipv6-icmp -j ACCEPT
COMMIT
";

/// What connecting to a port comes to within a second.
fn connect(bed: &Bed, host: &str, port: u16) -> Result<(), std::io::ErrorKind> {
    let to = SocketAddr::new(host.parse().expect("an address"), port);
    let connected = bed.peer().run(|| TcpStream::connect_timeout(&to, Duration::from_secs(1)));
    connected.map(drop).map_err(|error| error.kind())
}

#[test]
fn the_kernels_clients_meet_the_rules_and_other_rules_after_sighup() {
    require_root!();
    let bed = Bed::simple();
    let directory = tempfile::tempdir().expect("make a directory");
    let path = directory.path().join("rules");
    fs::write(&path, RULES).expect("write the rules");
    let server = Server::http(&bed, &["--rules", path.to_str().expect("UTF-8")]);
    server.serve_file("file", &vec![7; 5 << 20]);
    for host in [STACK4, STACK6] {
        assert_eq!(bed.curl(&[&url(host, "/file")]).len(), 5 << 20);
        assert_eq!(connect(&bed, host, 81), Err(std::io::ErrorKind::ConnectionRefused));
        assert_eq!(connect(&bed, host, 83), Err(std::io::ErrorKind::TimedOut));
    }
    // Linux's words for administratively prohibited.
    assert_eq!(connect(&bed, STACK4, 82), Err(std::io::ErrorKind::HostUnreachable));
    assert!(!bed.ping(STACK4), "echo requests are dropped");
    assert!(bed.ping(STACK6));

    fs::write(&path, "-A INPUT -p tcp --dport nonsense -j ACCEPT\n").expect("write the rules");
    server.signal("HUP");
    wait_until(Duration::from_secs(5), "wrong rules are told", || {
        server.log().contains("rules:1:25: `nonsense` is no port")
    });
    assert_eq!(bed.curl(&[&url(STACK4, "/file")]).len(), 5 << 20, "the old rules stay");

    fs::write(&path, "-P INPUT DROP\n-A INPUT -p icmp -j ACCEPT\n").expect("write the rules");
    server.signal("HUP");
    wait_until(Duration::from_secs(5), "rules are read again", || server.log().contains("rules read again"));
    wait_until(Duration::from_secs(5), "a ping is answered", || bed.ping(STACK4));
    assert_eq!(connect(&bed, STACK4, 80), Err(std::io::ErrorKind::TimedOut));
    server.stop();
}

#[test]
fn wrong_rules_end_the_start_with_file_line_column_and_reason() {
    let directory = tempfile::tempdir().expect("make a directory");
    let path = directory.path().join("rules");
    for (rules, says) in [
        (
            "-A INPUT -p tcp --dport 22 -j ACEPT\n",
            "rules:1:31: `ACEPT` is neither a target known here nor a chain",
        ),
        ("-t nat -A POSTROUTING -j MASQUERADE\n", "the nat table's POSTROUTING has rules"),
    ] {
        fs::write(&path, rules).expect("write the rules");
        let output = Command::new(env!("CARGO_BIN_EXE_bywash"))
            .args(["http", "-i", "lo", "--address", "192.0.2.10/24", "--no-control", "--rules"])
            .arg(&path)
            .stdin(Stdio::null())
            .output()
            .expect("run bywash");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains(says), "{errors}");
    }
}
