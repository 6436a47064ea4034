//! The control socket's requests about flows, of a runtime with two shards whose rules track them.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::control_socket::{Place, ask, until_shutdown};
use super::{CLIENT_V4, SERVER_V4, any, host, host_with, server};
use crate::config::FilterConfig;
use crate::flow::filter::RuleSet;
use crate::runtime::net::{TcpListener, TcpStream};
use crate::runtime::testing::cable;
use crate::runtime::{Context, Runtime};

const CONNECTIONS: usize = 12;

/// A server on two queues that tracks flows, and a client with connections to it.
struct Bed {
    place: Place,
    server: Runtime,
    client: Runtime,
}

fn rules(text: &str) -> FilterConfig {
    FilterConfig::new(Arc::new(RuleSet::parse(text, "rules").unwrap()), "eth0".into())
}

impl Bed {
    fn new(name: &str) -> Self {
        let place = Place::new(name);
        let (left, right) = cable(2, 1).unwrap();
        let tracking = rules("-A INPUT -m conntrack --ctstate INVALID -j DROP");
        let serve = |_: Context| async {
            let listener = TcpListener::bind(any(7))?;
            let mut streams = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                streams.push(stream);
            }
            Ok(())
        };
        let server_runtime = host_with(SERVER_V4, left, |config| config.filter = Some(tracking))
            .control(&place.0)
            .start(serve)
            .unwrap();
        let (connected, there) = crossbeam_channel::unbounded();
        let call = move |context: Context| {
            let connected = connected.clone();
            async move {
                let mut streams = Vec::new();
                for _ in 0..CONNECTIONS {
                    streams.push(TcpStream::connect(server(7)).await?);
                }
                connected.send(())?;
                context.shutdown().await;
                Ok(())
            }
        };
        let client = host(CLIENT_V4, right).start(call).unwrap();
        there.recv().unwrap();
        Self { place, server: server_runtime, client }
    }

    fn ask(&self, request: &str) -> Vec<Value> {
        ask(&self.place.0, request)
    }

    fn end(self) {
        // Neither side closes a connection before its own shutdown.
        for runtime in [&self.client, &self.server] {
            runtime.handle().shutdown();
        }
        for runtime in [self.client, self.server] {
            runtime.wait().unwrap();
        }
    }
}

fn follow(path: &Path, request: &str) -> Lines<BufReader<UnixStream>> {
    let stream = UnixStream::connect(path).unwrap();
    (&stream).write_all(format!("{request}\n").as_bytes()).unwrap();
    BufReader::new(stream).lines()
}

/// The next line that says anything.
fn next(lines: &mut Lines<BufReader<UnixStream>>) -> Value {
    loop {
        let value: Value = serde_json::from_str(&lines.next().expect("a line").unwrap()).unwrap();
        if value.get("alive").is_none() {
            return value;
        }
    }
}

#[test]
fn flows_of_all_shards_are_listed_counted_deleted_by_filter_and_flushed() {
    let bed = Bed::new("flows");
    let all = bed.ask(r#"{"version":1,"request":"flows"}"#);
    assert_eq!((&all[0]["answer"], &all[0]["shards"]), (&"flows".into(), &2.into()));
    let flows: Vec<_> = all.iter().filter(|line| line.get("flow").is_some()).collect();
    assert_eq!(flows.len(), CONNECTIONS);
    for shard in [0, 1] {
        assert!(flows.iter().any(|line| line["shard"] == shard), "a flow of shard {shard}");
    }
    assert_eq!(all.last().unwrap()["end"], serde_json::json!({"flows": CONNECTIONS, "silent_shards": []}));

    let port = &flows[5]["flow"]["original"]["sport"];
    let delete =
        format!(r#"{{"version":1,"request":"delete-flows","filter":{{"original":{{"sport":{port}}}}}}}"#);
    let deleted = bed.ask(&delete);
    assert_eq!((deleted.len(), &deleted[1]["flow"]["id"]), (3, &flows[5]["flow"]["id"]));
    assert_eq!(bed.ask(&delete).last().unwrap()["end"]["flows"], 0, "it is gone");

    let counted = bed.ask(r#"{"version":1,"request":"count-flows","kinds":true}"#);
    assert_eq!(counted[1]["counts"]["entries"], CONNECTIONS - 1);
    assert_eq!(counted[1]["counts"]["maximum"], 2 * crate::limits::CONNTRACK_ENTRIES);
    assert_eq!(counted[2]["kinds"]["tcp_states"]["ESTABLISHED"], CONNECTIONS - 1);

    let flushed = bed.ask(r#"{"version":1,"request":"flush-flows"}"#);
    assert_eq!((flushed.len(), &flushed[1]["end"]["flows"]), (2, &(CONNECTIONS - 1).into()));
    assert_eq!(bed.ask(r#"{"version":1,"request":"count-flows"}"#)[1]["counts"]["entries"], 0);
    bed.end();
}

#[test]
fn followers_hear_what_they_asked_for_until_the_runtime_ends() {
    let bed = Bed::new("follow");
    let request = |filter: &str| {
        format!(r#"{{"version":1,"request":"follow-flows","filter":{{{filter}}},"events":["DESTROY"]}}"#)
    };
    let mut tcp = follow(&bed.place.0, &request(r#""protocol":6"#));
    let mut udp = follow(&bed.place.0, &request(r#""protocol":17"#));
    for lines in [&mut tcp, &mut udp] {
        assert_eq!(next(lines)["answer"], "follow-flows");
        assert_eq!(next(lines)["following"]["silent_shards"], Value::Array(vec![]));
    }
    bed.ask(r#"{"version":1,"request":"flush-flows"}"#);
    let mut shards = Vec::new();
    for _ in 0..CONNECTIONS {
        let event = next(&mut tcp);
        assert_eq!((&event["event"], &event["flow"]["state"]), (&"DESTROY".into(), &"ESTABLISHED".into()));
        shards.push(event["shard"].as_u64().unwrap());
    }
    assert!(shards.contains(&0) && shards.contains(&1), "{shards:?}");
    bed.end();
    // FINs of connections whose flows were flushed begin new ones, which end with the runtime, untold.
    assert_eq!(next(&mut tcp)["end"]["flows"], CONNECTIONS);
    assert_eq!(next(&mut udp)["end"]["flows"], 0);
}

#[test]
fn a_follower_that_leaves_is_forgotten() {
    let bed = Bed::new("leave");
    let mut lines = follow(&bed.place.0, r#"{"version":1,"request":"follow-flows"}"#);
    next(&mut lines);
    assert!(next(&mut lines).get("following").is_some());
    let followed = || {
        let (sender, answer) = crossbeam_channel::bounded(2);
        for shard in 0..2 {
            let sender = sender.clone();
            let ask = move || {
                let any = !crate::runtime::local::current().unwrap().followers.is_empty();
                sender.send(any).unwrap();
                core::future::ready(())
            };
            bed.server.handle().spawn_on(shard, ask).unwrap();
        }
        [answer.recv().unwrap(), answer.recv().unwrap()]
    };
    assert_eq!(followed(), [true, true]);
    drop(lines);
    // Its thread notices when it next writes.
    while followed() != [false, false] {
        std::thread::yield_now();
    }
    bed.end();
}

#[test]
fn what_cannot_be_answered_is_told_apart() {
    let bed = Bed::new("refused-flows");
    let code = |request: &str| bed.ask(request)[0]["error"]["code"].clone();
    assert_eq!(code(r#"{"version":1,"request":"delete-flows","filter":{"zone":1}}"#), "bad-request");
    assert_eq!(code(r#"{"version":1,"request":"flush-flows","filter":{}}"#), "bad-request");
    assert_eq!(code(r#"{"version":1,"request":"flow"}"#), "unknown-request");
    bed.end();
    for (name, filter, expected) in [
        ("unruled", None, "no-rules"),
        ("stateless", Some(rules("-A INPUT -p tcp --dport 9 -j DROP")), "not-tracked"),
    ] {
        let place = Place::new(name);
        let runtime = host_with(SERVER_V4, cable(2, 1).unwrap().0, |config| config.filter = filter)
            .control(&place.0)
            .start(until_shutdown)
            .unwrap();
        for request in ["flows", "delete-flows", "flush-flows", "count-flows", "follow-flows"] {
            let answer = ask(&place.0, &format!(r#"{{"version":1,"request":"{request}"}}"#));
            assert_eq!(answer[0]["error"]["code"], expected, "{request}");
        }
        runtime.handle().shutdown();
        runtime.wait().unwrap();
    }
}
