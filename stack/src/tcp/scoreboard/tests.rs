use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Push(u32),
    Acknowledge(u32),
    Sack(u32, u32),
    Detect(u32),
    Resend,
    Timeout,
    Undo,
    Renege,
    Cut(u32),
    Join(u32),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1u32..1500).prop_map(Step::Push),
        4 => (0u32..5000).prop_map(Step::Acknowledge),
        8 => (0u32..20_000, 1u32..6000).prop_map(|(from, len)| Step::Sack(from, len)),
        4 => (0u32..40).prop_map(Step::Detect),
        8 => Just(Step::Resend),
        1 => Just(Step::Timeout),
        1 => Just(Step::Undo),
        1 => Just(Step::Renege),
        1 => (50u32..1000).prop_map(Step::Cut),
        1 => (100u32..3000).prop_map(Step::Join),
    ]
}

proptest! {
    /// Whatever happens in whatever order, the figures are those of the segments, and each byte is reported
    /// delivered once.
    #[test]
    fn everything_always_adds_up(steps in prop::collection::vec(any_step(), 1..120)) {
        let mut board = Scoreboard::default();
        let (mut una, mut nxt, mut delivered, mut taken_back) = (1u64, 1u64, 0u64, 0u64);
        for (i, step) in steps.into_iter().enumerate() {
            let now = Instant::from_millis(1000 + i as u64);
            match step {
                Step::Push(len) => {
                    // Of a flight that begins, every other time.
                    let snapshot = Snapshot::at_flight_begin(now, nxt, len);
                    let snapshot = if len % 2 == 0 { snapshot } else { Snapshot::default() };
                    board.push(nxt, len, now, snapshot);
                    nxt += u64::from(len);
                }
                Step::Acknowledge(len) => {
                    una = nxt.min(una + u64::from(len));
                    board.acknowledge(una, |sent, _| {
                        delivered += if sent.sacked { 0 } else { u64::from(sent.len) };
                    });
                }
                Step::Sack(from, len) => {
                    let start = una + u64::from(from);
                    let end = nxt.min(start + u64::from(len));
                    if start < end {
                        board.sack(now, start, end, |sent| delivered += u64::from(sent.len));
                    }
                }
                Step::Detect(patience) => {
                    let newest = board.last().map_or((now, nxt), |last| (last.sent_at, last.end()));
                    let since_sent = Duration::from_millis(patience.into());
                    let since_predecessor = since_sent / 4;
                    let patience = Patience { since_sent, since_predecessor, una_at: now };
                    board.detect(now, newest, &patience, |_| ());
                }
                Step::Resend => {
                    if let Some(end) = board.next_lost().map(|lost| lost.end()) {
                        board.note_resent(end, now, Snapshot::default());
                    }
                }
                Step::Timeout => drop(board.mark_lost_where(|_| true, |_| ())),
                Step::Undo => board.unmark_lost(),
                Step::Renege => {
                    taken_back += u64::from(board.sacked().bytes);
                    board.forget_sacks();
                }
                Step::Cut(len) => board.cut(len),
                Step::Join(len) => drop(board.join_first(len)),
            }
            board.check(una, nxt, true);
            prop_assert!(u64::from(board.in_flight()) <= nxt - una);
        }
        prop_assert_eq!(delivered - taken_back, una - 1 + u64::from(board.sacked().bytes));
    }
}

#[test]
fn blocks_that_come_again_are_no_news() {
    let mut board = Scoreboard::default();
    (0..1000).for_each(|n| board.push(1 + 100 * n, 100, Instant::ZERO, Snapshot::default()));
    let mut count = 0;
    for _ in 0..3 {
        board.sack(Instant::ZERO, 101, 50_001, |_| count += 1);
        board.sack(Instant::ZERO, 60_001, 60_151, |_| count += 1);
    }
    assert_eq!((count, board.sacked().segments), (500, 500));
    board.sack(Instant::ZERO, 60_001, 60_201, |_| count += 1);
    assert_eq!(count, 501);
    board.check(1, 100_001, true);
}
