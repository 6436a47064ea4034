//! The control socket as another process sees it: its file, its protocol, listings in portions.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{CLIENT_V4, Done, SERVER_V4, any, host, server};
use crate::limits;
use crate::runtime::net::{TcpListener, TcpStream, UdpSocket};
use crate::runtime::testing::cable;
use crate::runtime::{Context, StartError};

/// A path that nothing else uses; what is there goes with it.
pub(super) struct Place(pub(super) PathBuf);

impl Place {
    pub(super) fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("bywash-{}-{name}.sock", std::process::id())))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

pub(super) async fn until_shutdown(context: Context) -> Done {
    context.shutdown().await;
    Ok(())
}

/// The answer to one request, up to its last line.
pub(super) fn ask(path: &Path, request: &str) -> Vec<Value> {
    let stream = UnixStream::connect(path).unwrap();
    (&stream).write_all(format!("{request}\n").as_bytes()).unwrap();
    let mut answer = Vec::new();
    for line in BufReader::new(&stream).lines() {
        let value: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let last = value.get("end").is_some() || value.get("error").is_some();
        answer.push(value);
        if last {
            break;
        }
    }
    answer
}

#[test]
fn sockets_of_all_shards_are_listed_in_portions() {
    const LISTENERS: u16 = 2 * limits::LISTING_PLACES as u16 + 3;
    let place = Place::new("portions");
    let (left, right) = cable(2, 1).unwrap();
    let runtime = host(SERVER_V4, left).control(&place.0);
    let (ready, opened) = crossbeam_channel::unbounded();
    let runtime = runtime
        .start(move |context| {
            let ready = ready.clone();
            async move {
                let listeners: Vec<_> =
                    (1..=LISTENERS).map(|port| TcpListener::bind(any(port)).unwrap()).collect();
                let _udp = UdpSocket::bind(any(53))?;
                ready.send(())?;
                context.shutdown().await;
                drop(listeners);
                Ok(())
            }
        })
        .unwrap();
    opened.recv().unwrap();
    opened.recv().unwrap();
    let (connected, there) = crossbeam_channel::unbounded();
    let client = host(CLIENT_V4, right)
        .start(move |context| {
            let connected = connected.clone();
            async move {
                let stream = TcpStream::connect(server(7)).await?;
                connected.send(stream.local_addr()?)?;
                context.shutdown().await;
                Ok(())
            }
        })
        .unwrap();
    let peer = there.recv().unwrap().to_string();

    let answer = ask(&place.0, r#"{"version":1,"request":"sockets"}"#);
    assert_eq!((&answer[0]["answer"], &answer[0]["shards"]), (&"sockets".into(), &2.into()));
    assert_eq!(answer[0]["pid"], std::process::id());
    let of = |protocol: &str, state: &str| {
        answer
            .iter()
            .filter(|line| line["socket"]["protocol"] == protocol && line["socket"]["state"] == state)
            .collect::<Vec<_>>()
    };
    let ports: Vec<_> = of("tcp", "LISTEN").iter().map(|line| line["socket"]["local"].to_string()).collect();
    assert_eq!(ports.len(), 2 * usize::from(LISTENERS));
    let mut once = ports.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), usize::from(LISTENERS), "each on both shards, none twice");
    assert_eq!(of("udp", "CLOSED").len(), 2);
    let open = of("tcp", "ESTABLISHED");
    assert_eq!((open.len(), &open[0]["socket"]["remote"]), (1, &peer.into()));
    assert_eq!(open[0]["socket"]["info"]["congestion"], "cubic");
    assert!(open[0]["socket"]["info"]["rto"].as_u64().unwrap() >= 200_000, "microseconds");
    let end = &answer.last().unwrap()["end"];
    assert_eq!((&end["sockets"], &end["silent_shards"]), (&(answer.len() - 2).into(), &Value::Array(vec![])));
    client.handle().shutdown();
    client.wait().unwrap();
    runtime.handle().shutdown();
    runtime.wait().unwrap();
}

#[test]
fn wrong_requests_are_refused_with_a_reason_and_the_next_one_is_answered() {
    let place = Place::new("requests");
    let runtime = host(SERVER_V4, cable(1, 1).unwrap().0).control(&place.0).start(until_shutdown).unwrap();
    let code = |request: &str| ask(&place.0, request)[0]["error"]["code"].clone();
    assert_eq!(code("nonsense"), "bad-request");
    assert_eq!(code(r#"{"request":"sockets"}"#), "bad-request");
    assert_eq!(code(r#"{"version":9,"request":"sockets"}"#), "bad-version");
    assert_eq!(code(r#"{"version":1,"request":"secrets"}"#), "unknown-request");
    assert_eq!(code(&"x".repeat(2 * limits::CONTROL_REQUEST_BYTES)), "bad-request");
    let two = ask(&place.0, "nonsense\n{\"version\":1,\"request\":\"sockets\"}");
    assert_eq!(two.len(), 1);
    runtime.handle().shutdown();
    runtime.wait().unwrap();
}

#[test]
fn the_socket_is_the_users_alone_replaces_a_stale_one_and_goes_with_the_runtime() {
    let place = Place::new("file");
    drop(UnixListener::bind(&place.0).unwrap());
    assert!(place.0.exists(), "left behind");
    let start = || host(SERVER_V4, cable(1, 1).unwrap().0).control(&place.0).start(until_shutdown);
    let runtime = start().unwrap();
    assert_eq!(fs::metadata(&place.0).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(start().err(), Some(StartError::Control { path, .. }) if path == place.0));
    assert!(!ask(&place.0, r#"{"version":1,"request":"sockets"}"#).is_empty(), "the first goes on");
    runtime.handle().shutdown();
    runtime.wait().unwrap();
    assert!(!place.0.exists());

    fs::write(&place.0, "a file").unwrap();
    assert!(matches!(start().err(), Some(StartError::Control { .. })));
    assert_eq!(fs::read_to_string(&place.0).unwrap(), "a file");
}
