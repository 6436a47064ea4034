//! The stack as client of the kernel's servers in the peer's namespace: `bywash get` and `bywash ping`.

mod common;

use std::io::Read;
use std::net::UdpSocket;
use std::process::Output;

use bywash_afxdp::require_root;
use bywash_apps::http::body::generated_byte;
use bywash_apps::http::sink::hex;
use common::kernel_http::{self, BYTES};
use common::server::bywash;
use common::{Bed, PEER4, PEER6, STACK4, STACK6};
use sha2::{Digest, Sha256};

/// `bywash get` on the stack's own addresses.
fn get(bed: &Bed, arguments: &[&str]) -> Output {
    let (four, six) = (format!("{STACK4}/24"), format!("{STACK6}/64"));
    let mut all = vec!["get", "--log", "warn", "--address", &four, "--address", &six];
    all.extend(arguments);
    bywash(bed, &all).output().expect("run bywash")
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn get_fetches_a_file_from_the_kernel_over_both_families_and_from_a_shared_address() {
    require_root!();
    let bed = Bed::new(2, 1500);
    kernel_http::start(bed.peer());
    let want: Vec<u8> = (0..BYTES as u64).map(generated_byte).collect();
    let hash = hex(&Sha256::digest(&want));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("got");
    for url in [format!("http://{PEER4}/file"), format!("http://[{PEER6}]/file")] {
        let output = get(&bed, &["--sha256", "-o", file.to_str().unwrap(), &url]);
        assert!(output.status.success(), "{url}: {}", errors(&output));
        assert!(errors(&output).contains(&format!("sha256 {hash}")), "{url}: {}", errors(&output));
        assert!(std::fs::read(&file).unwrap() == want, "{url}: the file differs");
    }
    let url = format!("http://{PEER4}/file");
    let output =
        bywash(&bed, &["get", "--share-address", "--sha256", "-o", "/dev/null", &url]).output().unwrap();
    assert!(output.status.success() && errors(&output).contains(&hash), "{}", errors(&output));
    // Replies come to the queue that the peer's hash chooses, not to the one that asked.
    let url = format!("http://{PEER4}/small");
    let arguments = ["get", "--share-address", "--requests", "200", "--concurrency", "4", &url];
    let output = bywash(&bed, &arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains(", 0 failed"), "{text}{}", errors(&output));
    assert!(bed.xdp_program().is_none());
}

#[test]
fn get_keeps_answering_while_the_file_it_writes_waits() {
    require_root!();
    let bed = Bed::simple();
    kernel_http::start(bed.peer());
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("run mkfifo");
    assert!(made.success());
    let address = format!("{STACK4}/24");
    let url = format!("http://{PEER4}/file");
    let arguments = ["get", "--log", "warn", "--address", &address, "-o", pipe.to_str().unwrap(), &url];
    let mut child = bywash(&bed, &arguments).spawn().expect("start bywash");
    // Opening a pipe waits for its reader: the stack must be seen to answer before there is one.
    let limit = std::time::Duration::from_secs(10);
    common::wait_until(limit, "the stack answers with nobody at the pipe", || bed.ping(STACK4));
    assert!(bed.ping(STACK4), "it goes on answering");
    let mut reader = std::fs::File::open(&pipe).unwrap();
    let mut got = vec![0; 100_000];
    reader.read_exact(&mut got).unwrap();
    // Now the pipe is full, and everything behind it.
    assert!(bed.ping(STACK4) && bed.ping(STACK4) && bed.ping(STACK4), "it answers while the reader rests");
    reader.read_to_end(&mut got).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(got.iter().copied().eq((0..BYTES as u64).map(generated_byte)), "{} bytes", got.len());
}

#[test]
fn get_says_what_went_wrong_and_follows_redirects_within_bounds() {
    require_root!();
    let bed = Bed::simple();
    kernel_http::start(bed.peer());
    let url = |path: &str| format!("http://{PEER4}{path}");
    let output = get(&bed, &[&url("/moved")]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), b"small\n".as_slice()));
    for (arguments, words) in [
        (vec![url("/nothing")], "404"),
        (vec![url("/loop"), "--max-redirects".into(), "3".into()], "more than 3 redirects"),
        (vec![url("/short"), "-o".into(), "/dev/null".into()], "HTTP"),
        (vec![url("/file"), "-o".into(), "/dev/full".into()], "write to /dev/full: no space left"),
        (vec![url("/silent"), "--stall-timeout".into(), "1s".into()], "--stall-timeout"),
        (vec![format!("http://{PEER4}:81/")], "connection refused"),
        (vec!["http://192.0.2.77/".into()], "host unreachable"),
        (vec!["http://[2001:db8::77]/".into()], "host unreachable"),
        (vec!["http://198.51.100.1/".into()], "network unreachable"),
    ] {
        let output = get(&bed, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let text = errors(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
        assert!(text.to_lowercase().contains(&words.to_lowercase()), "{arguments:?}: {text}");
    }
}

#[test]
fn get_loads_a_server_over_two_queues_without_a_failure() {
    require_root!();
    let bed = Bed::new(2, 1500);
    kernel_http::start(bed.peer());
    let output = get(&bed, &["--requests", "5000", "--concurrency", "16", &format!("http://{PEER4}/small")]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", errors(&output));
    assert!(text.starts_with("5000 requests") && text.contains(", 0 failed"), "{text}");
}

/// A name server of the kernel's that knows one name.
fn kernel_dns(bed: &Bed) {
    let socket = bed.peer().run(|| UdpSocket::bind((PEER4, 53)).expect("bind the kernel's UDP"));
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut query) {
            let name_end = 12 + query[12..length].iter().position(|&byte| byte == 0).unwrap_or(0);
            let question = &query[12..(name_end + 5).min(length)];
            let wanted = query[12..name_end] == *b"\x05files\x04test";
            // Names that begin with a digit get it as response code; `0` exists, but has no address.
            let code = match query[13] {
                digit @ b'0'..=b'9' => digit - b'0',
                _ if wanted => 0,
                _ => 3,
            };
            if query[12..name_end] == *b"\x06silent\x04test" {
                continue;
            }
            let is_a = query[name_end + 1..name_end + 3] == [0, 1];
            // RFC 1035 section 4.1: id, response with recursion, no error or no such name, one question, the answers.
            let mut answer = query[..2].to_vec();
            answer.extend([0x81, 0x80 | code, 0, 1, 0, u8::from(wanted && is_a), 0, 0, 0, 0]);
            answer.extend(question);
            if wanted && is_a {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
            }
            let _ = socket.send_to(&answer, peer);
        }
    });
}

#[test]
fn get_resolves_names_with_the_given_name_server() {
    require_root!();
    let bed = Bed::simple();
    kernel_http::start(bed.peer());
    kernel_dns(&bed);
    let output = get(&bed, &["--dns", PEER4, "http://files.test/small"]);
    assert_eq!(output.stdout, b"small\n", "{}", errors(&output));
    let output = get(&bed, &["--dns", PEER4, "http://nothing.test/small"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors(&output).contains("cannot resolve nothing.test: no such name"), "{}", errors(&output));
    for (name, words) in [
        ("0.test", "cannot resolve 0.test: the name has no address"),
        ("2.test", "SERVFAIL"),
        ("5.test", "REFUSED"),
        ("silent.test", "no name server answered"),
    ] {
        let url = format!("http://{name}/small");
        let output = get(&bed, &["--dns", PEER4, "--connect-timeout", "2s", &url]);
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(errors(&output).contains(words), "{name}: {}", errors(&output));
    }
    let output = ping(&bed, &["--dns", PEER4, "--count", "1", "nothing.test"]);
    assert!(errors(&output).contains("nothing.test: no such name"), "{}", errors(&output));
}

/// `bywash ping` on the stack's own addresses.
fn ping(bed: &Bed, arguments: &[&str]) -> Output {
    let (four, six) = (format!("{STACK4}/24"), format!("{STACK6}/64"));
    let mut all = vec!["ping", "--log", "warn", "--address", &four, "--address", &six, "--interval", "100ms"];
    all.extend(arguments);
    bywash(bed, &all).output().expect("run bywash")
}

#[test]
fn ping_hears_the_kernel_over_both_families_and_in_fragments() {
    require_root!();
    let bed = Bed::new(2, 1500);
    for host in [PEER4, PEER6] {
        for size in ["0", "56", "1472", "4000"] {
            let output = ping(&bed, &["--count", "3", "--size", size, host]);
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{host} {size}: {text}{}", errors(&output));
            assert!(
                text.contains("3 sent, 3 received, 0.0 % lost") && !text.contains("damaged"),
                "{host} {size}: {text}"
            );
        }
    }
}

#[test]
fn ping_from_a_shared_address_hears_the_replies_and_leaves_the_kernel_its_own() {
    require_root!();
    let bed = Bed::new(2, 1500);
    for host in [PEER4, PEER6] {
        let arguments =
            ["ping", "--log", "warn", "--share-address", "--interval", "100ms", "--count", "3", host];
        let pinging = bywash(&bed, &arguments).stdout(std::process::Stdio::piped()).spawn().unwrap();
        let kernels = bed.pair.stack.command("ping").args(["-c", "3", "-i", "0.2", "-W", "2", host]).output();
        let (output, kernels) = (pinging.wait_with_output().unwrap(), kernels.unwrap());
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("3 sent, 3 received"), "{host}: {text}");
        assert!(kernels.status.success(), "{host}: {}", String::from_utf8_lossy(&kernels.stdout));
    }
    let arguments =
        ["ping", "--share-address", "--count", "1", "--timeout", "200ms", "--size", "4000", PEER4];
    let output = bywash(&bed, &arguments).output().unwrap();
    assert!(errors(&output).contains("fragments to a shared address"), "{}", errors(&output));
}

#[test]
fn ping_of_nobody_fails_with_everything_lost() {
    require_root!();
    let bed = Bed::simple();
    let output = ping(&bed, &["--count", "2", "--timeout", "500ms", "192.0.2.77"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("0 received, 100.0 % lost"), "{text}");
}

#[test]
fn the_stack_answers_the_kernels_pings_of_every_size() {
    require_root!();
    let bed = Bed::simple();
    let server = common::server::Server::echo(&bed, &[]);
    for host in [STACK4, STACK6] {
        for size in ["56", "1472", "8000", "60000"] {
            let output =
                bed.peer_command("ping").args(["-c", "2", "-i", "0.2", "-W", "3", "-s", size, host]).output();
            let output = output.unwrap();
            assert!(output.status.success(), "{host} {size}: {}", String::from_utf8_lossy(&output.stdout));
        }
    }
    server.stop();
}

#[test]
fn nic_shows_the_attached_program_and_errors_name_the_remedy() {
    require_root!();
    let bed = Bed::new(2, 1500);
    let server = common::server::Server::echo(&bed, &[]);
    let mut command = bed.pair.stack.command(env!("CARGO_BIN_EXE_bywash"));
    let output = command.args(["nic", &bed.pair.stack_interface, "--json"]).output().unwrap();
    let nic: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&nic["driver"], &nic["rx_queues"]), (&"veth".into(), &2.into()));
    assert_eq!(nic["attached"]["name"], "bywash_steer");
    server.stop();
    for (option, value, code, words) in [
        ("--queues", "5", 1, "queue 5 does not exist"),
        ("--mode", "zero-copy", 1, "zero-copy"),
        ("--ring", "1000", 1, "power of two"),
        ("--mtu", "9000", 2, "MTU 9000 is not possible: IP and the device allow 576 to 1500"),
        ("--gateway", "198.51.100.1", 2, "gateway 198.51.100.1"),
        ("--log", "loud", 2, "`loud` is no level"),
    ] {
        let arguments = ["echo", "--address", "192.0.2.10/24", option, value];
        let output = bywash(&bed, &arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", errors(&output));
        let text = errors(&output);
        let line = text.lines().last().unwrap_or_default();
        assert!(line.starts_with("bywash: ") && line.contains(words), "{arguments:?}: {text}");
    }
}
