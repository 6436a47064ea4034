//! Arbitrary frames into a live shard: no panic, no lost frame, and the same inputs give the same outputs.

use core::net::SocketAddr;

use proptest::prelude::*;

use super::*;

/// Frames that two hosts exchanged in earnest, to be damaged.
fn real_frames() -> Vec<Vec<u8>> {
    let mut pair = Pair::new();
    let any = |text: &str| text.parse::<SocketAddr>().unwrap();
    let echo = pair.a.shard.udp_bind(any("0.0.0.0:53")).unwrap();
    let echo6 = pair.a.shard.udp_bind(any("[::]:53")).unwrap();
    let (four, six) = (pair.b.shard.udp_bind(any("0.0.0.0:0")), pair.b.shard.udp_bind(any("[::]:0")));
    for (id, to) in [(four.unwrap(), "192.0.2.1:53"), (six.unwrap(), "[2001:db8::1]:53")] {
        for len in [0, 100, 4000] {
            ready(pair.b.shard.udp_poll_send_to(id, &pattern(len), any(to), no_waker())).unwrap();
            pair.settle();
        }
        let ping = pair.b.shard.ping_open(any(to).ip()).unwrap();
        pair.b.shard.ping_send(ping, 1, &pattern(3000), None).unwrap();
        pair.settle();
    }
    pair.a.shard.udp_close(echo);
    pair.a.shard.udp_close(echo6);
    pair.b.device.sent
}

/// Everything that a fresh host sends when it gets `steps`: frame, milliseconds to wait.
fn replies(steps: &[(Vec<u8>, u64)]) -> Vec<Vec<u8>> {
    let mut host = Host::new(1, &config(1));
    let socket = host.shard.udp_bind("0.0.0.0:53".parse().unwrap()).unwrap();
    let mut now = Instant::from_millis(1);
    for (frame, wait) in steps {
        host.device.rx.push_back(frame.clone());
        now += Duration::from_millis(*wait);
        host.poll(now);
        let _ = host.shard.udp_poll_recv_from(socket, &mut [0; 100], no_waker());
        host.device.tx.clear();
    }
    // Long enough for every neighbour, fragment and retry to be given up.
    for _ in 0..50 {
        now += Duration::from_secs(1);
        host.poll(now);
    }
    host.device.tx.clear();
    assert_eq!(host.device.pool().free_frames(), host.device.pool().layout().frames, "a frame is lost");
    host.device.sent
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn damaged_traffic_harms_nothing_and_repeats_exactly(
        picks in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>(), any::<bool>(), 0u64..500), 1..60),
    ) {
        let frames = real_frames();
        let damaged = picks.into_iter().map(|(which, at, byte, damage, wait)| {
            let mut frame = frames[which.index(frames.len())].clone();
            if damage {
                let at = at.index(frame.len());
                frame[at] = byte;
                frame.truncate(at.max(20) + usize::from(byte) * 8);
            }
            (frame, wait)
        });
        let steps: Vec<_> = damaged.collect();
        prop_assert!(replies(&steps) == replies(&steps));
    }

    #[test]
    fn arbitrary_frames_harm_nothing(frames in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..300), 0u64..100), 1..40)) {
        replies(&frames);
    }
}
