use proptest::prelude::*;

use super::*;
use Direction::{Original, Reply};

const ISN: u32 = 1000;
const PEER_ISN: u32 = u32::MAX - 2;

fn segment(flags: Flags, seq: u32, ack: u32, payload_len: u32) -> TcpView {
    TcpView {
        seq: SeqNumber(seq),
        ack: SeqNumber(ack),
        flags,
        window: 1000,
        payload_len,
        window_scale: None,
        sack_permitted: false,
        sack_edge: None,
    }
}

fn data(seq: u32, ack: u32, len: u32) -> TcpView {
    segment(Flags::ACK | Flags::PSH, seq, ack, len)
}

fn syn() -> TcpView {
    segment(Flags::SYN, ISN, 0, 0)
}

/// After the handshake: the client's next number is `ISN + 1`, the server's `PEER_ISN + 1`.
fn established() -> TcpTrack {
    let mut track = TcpTrack::begin(&syn(), false).unwrap();
    let syn_ack = segment(Flags::SYN | Flags::ACK, PEER_ISN, ISN + 1, 0);
    assert_eq!(track.update(Reply, &syn_ack, false), TcpVerdict::Accept);
    assert_eq!(track.state, TcpState::SynRecv);
    let ack = segment(Flags::ACK, ISN + 1, PEER_ISN.wrapping_add(1), 0);
    assert_eq!(track.update(Original, &ack, false), TcpVerdict::Accept);
    assert_eq!(track.state, TcpState::Established);
    track
}

fn peer(offset: u32) -> u32 {
    PEER_ISN.wrapping_add(1).wrapping_add(offset)
}

#[test]
fn a_connection_opens_carries_data_and_closes_from_either_side() {
    for first in [Original, Reply] {
        let mut track = established();
        assert_eq!(track.update(Original, &data(ISN + 1, peer(0), 100), false), TcpVerdict::Accept);
        assert!(track.is_unacknowledged());
        assert_eq!(track.update(Reply, &data(peer(0), ISN + 101, 50), false), TcpVerdict::Accept);
        assert_eq!(track.update(Original, &data(ISN + 101, peer(50), 0), false), TcpVerdict::Accept);
        assert!(!track.is_unacknowledged());
        let number =
            |direction| if direction == Original { (ISN + 101, peer(50)) } else { (peer(50), ISN + 101) };
        let (seq, ack) = number(first);
        let fin = segment(Flags::FIN | Flags::ACK, seq, ack, 0);
        assert_eq!(track.update(first, &fin, false), TcpVerdict::Accept);
        assert_eq!(track.state, TcpState::FinWait);
        let (seq, ack) = number(first.other());
        assert_eq!(
            track.update(first.other(), &segment(Flags::ACK, seq, ack.wrapping_add(1), 0), false),
            TcpVerdict::Accept
        );
        assert_eq!(track.state, TcpState::CloseWait);
        let fin = segment(Flags::FIN | Flags::ACK, seq, ack.wrapping_add(1), 0);
        assert_eq!(track.update(first.other(), &fin, false), TcpVerdict::Accept);
        assert_eq!(track.state, TcpState::LastAck);
        let (seq, ack) = number(first);
        let last = segment(Flags::ACK, seq.wrapping_add(1), ack.wrapping_add(1), 0);
        assert_eq!(track.update(first, &last, false), TcpVerdict::Accept);
        assert_eq!(track.state, TcpState::TimeWait);
        assert_eq!(track.update(Original, &syn(), false), TcpVerdict::Reopen);
    }
}

#[test]
fn simultaneous_open_is_followed() {
    let mut track = TcpTrack::begin(&syn(), false).unwrap();
    assert_eq!(track.update(Reply, &segment(Flags::SYN, PEER_ISN, 0, 0), false), TcpVerdict::Accept);
    assert_eq!(track.state, TcpState::SynSent2);
    let syn_ack = segment(Flags::SYN | Flags::ACK, ISN, peer(0), 0);
    assert_eq!(track.update(Original, &syn_ack, false), TcpVerdict::Accept);
    assert_eq!(track.state, TcpState::SynRecv);
}

#[test]
fn data_beyond_what_was_offered_is_ahead() {
    let mut track = established();
    assert_eq!(
        track.update(Original, &data(ISN + 1 + 1000, peer(0), 1), false),
        TcpVerdict::Accept,
        "at the edge: a probe"
    );
    let mut track = established();
    let beyond = data(ISN + 1 + 1001, peer(0), 1);
    assert_eq!(track.update(Original, &beyond, false), TcpVerdict::Invalid(Misfit::Ahead));
    assert_eq!(track.update(Original, &beyond, true), TcpVerdict::Accept, "liberal");
}

#[test]
fn data_older_than_a_window_is_behind() {
    let mut track = established();
    for i in 0..5 {
        assert_eq!(
            track.update(Original, &data(ISN + 1 + i * 1000, peer(0), 1000), false),
            TcpVerdict::Accept
        );
        assert_eq!(
            track.update(Reply, &data(peer(0), ISN + 1 + (i + 1) * 1000, 0), false),
            TcpVerdict::Accept
        );
    }
    assert_eq!(
        track.update(Original, &data(ISN + 4001, peer(0), 1000), false),
        TcpVerdict::Accept,
        "sent again"
    );
    assert_eq!(
        track.update(Original, &data(ISN + 1, peer(0), 1000), false),
        TcpVerdict::Invalid(Misfit::Behind)
    );
}

#[test]
fn an_acknowledgment_of_what_was_never_sent_is_invalid() {
    let mut track = established();
    assert_eq!(track.update(Reply, &data(peer(0), ISN + 2, 0), false), TcpVerdict::Invalid(Misfit::AckAhead));
    assert_eq!(
        track.update(Reply, &data(peer(0), (ISN + 1).wrapping_sub(66_001), 0), false),
        TcpVerdict::Invalid(Misfit::AckBehind)
    );
}

#[test]
fn a_rst_before_what_was_acknowledged_is_refused() {
    let mut track = established();
    assert_eq!(track.update(Original, &data(ISN + 1, peer(0), 500), false), TcpVerdict::Accept);
    assert_eq!(track.update(Reply, &data(peer(0), ISN + 501, 0), false), TcpVerdict::Accept);
    let rst = |seq| segment(Flags::RST, seq, 0, 0);
    assert_eq!(track.update(Original, &rst(ISN + 500), false), TcpVerdict::Invalid(Misfit::Reset));
    assert_eq!(track.update(Original, &rst(ISN + 501), false), TcpVerdict::Accept);
    assert_eq!(track.state, TcpState::Close);
}

#[test]
fn windows_are_scaled_only_when_both_syns_say_so() {
    let scaled = |mut view: TcpView, scale| {
        view.window_scale = Some(scale);
        view
    };
    for (client, server, room) in [(Some(3), Some(3), 8000), (Some(3), None, 1000), (None, Some(3), 1000)] {
        let first = client.map_or(syn(), |scale| scaled(syn(), scale));
        let mut track = TcpTrack::begin(&first, false).unwrap();
        let syn_ack = segment(Flags::SYN | Flags::ACK, PEER_ISN, ISN + 1, 0);
        let syn_ack = server.map_or(syn_ack, |scale| scaled(syn_ack, scale));
        assert_eq!(track.update(Reply, &syn_ack, false), TcpVerdict::Accept);
        assert_eq!(track.update(Original, &data(ISN + 1, peer(0), 0), false), TcpVerdict::Accept);
        // The window in the SYN,ACK is not scaled; the next one is.
        assert_eq!(track.update(Reply, &data(peer(0), ISN + 1, 0), false), TcpVerdict::Accept);
        assert_eq!(track.update(Original, &data(ISN + 1 + room, peer(0), 1), false), TcpVerdict::Accept);
        let beyond = data(ISN + 3 + room, peer(0), 1);
        assert_eq!(
            track.update(Original, &beyond, false),
            TcpVerdict::Invalid(Misfit::Ahead),
            "{client:?} {server:?}"
        );
    }
}

#[test]
fn a_challenge_ack_to_a_new_syn_passes() {
    let mut track = established();
    assert_eq!(track.update(Original, &segment(Flags::SYN, 77, 0, 0), false), TcpVerdict::Ignore);
    assert_eq!(track.state, TcpState::Established);
    assert_eq!(track.update(Reply, &data(peer(0), ISN + 1, 0), false), TcpVerdict::Accept);
}

#[test]
fn impossible_flags_and_unexpected_beginnings_are_refused() {
    for flags in [
        Flags::NONE,
        Flags::FIN,
        Flags::SYN | Flags::FIN,
        Flags::SYN | Flags::RST,
        Flags::FIN | Flags::PSH | Flags::URG,
    ] {
        assert_eq!(TcpTrack::begin(&segment(flags, 1, 1, 0), true), Err(Misfit::Flags), "{flags:?}");
    }
    assert_eq!(TcpTrack::begin(&segment(Flags::SYN | Flags::ACK, 1, 1, 0), true), Err(Misfit::State));
    assert_eq!(TcpTrack::begin(&segment(Flags::RST, 1, 1, 0), true), Err(Misfit::State));
    assert_eq!(TcpTrack::begin(&segment(Flags::ACK, 1, 1, 0), false), Err(Misfit::State));
}

#[test]
fn a_connection_is_taken_up_in_its_midst_when_loose() {
    let mut track = TcpTrack::begin(&data(5000, 9000, 100), true).unwrap();
    assert_eq!(track.state, TcpState::Established);
    assert_eq!(track.update(Reply, &data(9000, 5100, 1400), false), TcpVerdict::Accept);
    assert_eq!(
        track.update(Original, &data(5100, 10_400, 100_000), false),
        TcpVerdict::Accept,
        "the scale is not known"
    );
}

#[test]
fn one_segment_again_and_again_is_noticed() {
    let mut track = established();
    for times in 0..4 {
        assert!(!track.is_retransmitting(), "{times}");
        assert_eq!(track.update(Original, &data(ISN + 1, peer(0), 10), false), TcpVerdict::Accept);
    }
    assert!(track.is_retransmitting());
    assert_eq!(track.update(Original, &data(ISN + 11, peer(0), 10), false), TcpVerdict::Accept);
    assert!(!track.is_retransmitting());
}

proptest! {
    /// What a window allows in both directions, in any order within it, is valid.
    #[test]
    fn traffic_within_the_windows_is_valid(steps in prop::collection::vec((any::<bool>(), 0u32..900, any::<bool>()), 1..100)) {
        let mut track = established();
        let mut next = [ISN + 1, peer(0)];
        for (original, len, again) in steps {
            let (s, r) = if original { (0, 1) } else { (1, 0) };
            let direction = if original { Original } else { Reply };
            let view = data(next[s], next[r], len);
            prop_assert_eq!(track.update(direction, &view, false), TcpVerdict::Accept);
            if again {
                prop_assert_eq!(track.update(direction, &view, false), TcpVerdict::Accept);
            }
            next[s] = next[s].wrapping_add(len);
            // Its receiver acknowledges, so that the window opens again.
            let ack = data(next[r], next[s], 0);
            prop_assert_eq!(track.update(direction.other(), &ack, false), TcpVerdict::Accept);
            prop_assert_eq!(track.state, TcpState::Established);
        }
    }

    /// Whatever comes: no panic, and only a RST or FINs end a connection.
    #[test]
    fn any_segments_are_survived(segments in prop::collection::vec((any::<bool>(), 0u16..512, any::<u32>(), any::<u32>(), 0u32..70_000, any::<u16>(), any::<Option<u32>>()), 0..60)) {
        let mut track = established();
        for (original, flags, seq, ack, payload_len, window, sack) in segments {
            let view = TcpView { window, sack_edge: sack.map(SeqNumber), ..segment(Flags(flags), seq, ack, payload_len) };
            let before = track.state;
            let verdict = track.update(if original { Original } else { Reply }, &view, false);
            if verdict != TcpVerdict::Accept {
                prop_assert_eq!(track.state, before);
            }
        }
    }
}

#[test]
fn states_are_read_by_the_names_that_they_are_written_with() {
    for state in TcpState::ALL {
        assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        assert_eq!(TcpState::named(&state.name().to_lowercase()), Some(state));
    }
    assert_eq!(TcpState::named("LISTEN"), None);
}
