//! The figures as JSON and as tables.

use core::fmt::Write;

use serde_json::{Value, json};

use super::measure::{
    Backoff, CUBIC, GOODPUT_MAX, LossResult, NEWRENO_NO_SACK, Queue, Recovery, SEEDS, Shared, Spread, Stack,
    predicted, reno,
};

const HEAD: &str = "\
# Congestion control and loss recovery in the simulator

Drawn by `make plots` (`cargo run --release -p bywash-benches --bin plots`); plots and raw figures are in `results/`.
Whole stacks (shard and TCP engine) at both ends, virtual time, seeded: the figures do not depend on the machine and repeat
to the byte. One bottleneck of 100 Mbit/s, 40 ms round trip, tail-drop queue of one bandwidth-delay product (500,000 bytes),
buffers of 8 MiB, MTU 1500.
";

fn mbit(bits: f64) -> String {
    format!("{:.2}", bits / 1e6)
}

fn spread(spread: Spread) -> String {
    format!("{} ({} to {})", mbit(spread.median), mbit(spread.min), mbit(spread.max))
}

/// The file for readers.
pub fn markdown(
    loss: &[LossResult],
    backoff: &Backoff,
    long: &[LossResult],
    shared: &[Shared],
    queues: &[Queue],
    recovery: &[Recovery],
) -> String {
    let mut text = HEAD.to_owned();
    // Writing to a string does not fail.
    let _ = loss_table(&mut text, loss).and_then(|()| backoff_table(&mut text, backoff));
    let _ = long_table(&mut text, long);
    let _ = shared_table(&mut text, shared);
    let _ = queue_table(&mut text, queues).and_then(|()| recovery_table(&mut text, recovery));
    text
}

fn find(loss: &[LossResult], of: &LossResult, stack: Stack) -> f64 {
    let same = |r: &&LossResult| r.stack == stack && r.loss == of.loss && r.burst == of.burst;
    loss.iter().find(same).map_or(f64::NAN, |r| r.goodput.median)
}

fn loss_table(text: &mut String, loss: &[LossResult]) -> core::fmt::Result {
    writeln!(
        text,
        "\n## Random loss, one flow\n\nGoodput in Mbit/s: median (least to largest) of {SEEDS} seeds, 60 s each after 10 s. \
         Predicted: RFC 9438 section 5's\naverage window, the Reno-friendly one (section 4.3) where larger, at most the \
         link's {} Mbit/s of payload. Spurious:\nretransmissions beyond what the link lost, all seeds together.\n",
        mbit(GOODPUT_MAX)
    )?;
    writeln!(
        text,
        "| loss | stack | goodput | predicted for CUBIC | ratio | to NewReno without SACK | RTOs | spurious of lost |"
    )?;
    writeln!(text, "|---|---|---|---|---|---|---|---|")?;
    for r in loss {
        let burst = if r.burst > 1 { format!(", 1 to {} in a row", r.burst) } else { String::new() };
        let (goal, ratio) = if r.stack == CUBIC && r.burst == 1 {
            (mbit(predicted(r.loss, r.rtt)), format!("{:.2}", r.goodput.median / predicted(r.loss, r.rtt)))
        } else {
            (String::new(), String::new())
        };
        writeln!(
            text,
            "| {} %{burst} | {} | {} | {goal} | {ratio} | {:.2} | {} | {} of {} |",
            r.loss * 100.0,
            r.stack.name(),
            spread(r.goodput),
            r.goodput.median / find(loss, r, NEWRENO_NO_SACK),
            r.timeouts,
            r.spurious,
            r.lost
        )?;
    }
    writeln!(text, "\n![Goodput by loss](results/loss.svg)")?;
    writeln!(
        text,
        "\nAt 1 % and 40 ms CUBIC is in its Reno-friendly region: its own function gives 3.0 segments, Reno's \
         sqrt(3 / 2p) gives 12.2, and\nsection 4.3 makes it follow the latter. So both have the same response function, and \
         a NewReno that repairs single losses\nwithout a timeout is near CUBIC whatever it lacks otherwise: no CUBIC of \
         RFC 9438 can be 3 times as fast here. BBR, which does\nnot take loss for congestion below 2 %, is. What SACK and \
         RACK are worth shows where several segments of a window are lost,\nand against RFC 6582 alone."
    )
}

fn backoff_table(text: &mut String, backoff: &Backoff) -> core::fmt::Result {
    writeln!(
        text,
        "\n### What keeps RFC 6582 alone so low\n\nIts timeouts at {} %, first seed:\n\n\
         | at, s | acknowledged since the last, segments | taken for lost, segments | next timeout after, s |\n|---|---|---|---|",
        backoff.loss * 100.0
    )?;
    for timeout in &backoff.timeouts {
        writeln!(
            text,
            "| {:.2} | {} | {} | {:.2} |",
            timeout.at.as_millis() as f64 / 1000.0,
            timeout.acked,
            timeout.lost,
            timeout.next.as_secs_f64()
        )?;
    }
    writeln!(
        text,
        "\nSlow start without HyStart++ loses hundreds of segments at once. RFC 6582 repairs one a round trip, and meanwhile each \
         duplicate\nACK lets a segment more go, so that a window of twice the path is outstanding when a retransmission is lost, \
         too. That takes a\ntimeout, which makes all of them retransmissions. Until the last of them is acknowledged a further \
         loss has no fast retransmit\n(RFC 6582 section 3.2 step 2), and no ACK gives a round-trip time (Karn's rule, RFC 6298 \
         section 3: there are no timestamps), so that\nthe timeout stays doubled (section 5.5) each time one of about a hundred \
         retransmissions is lost. That is the standards' doing.\nTimestamps end it, and so do SACK and a quiet start: where random loss begins {} s \
         after the connection, the same stack carries\n{} Mbit/s.",
        backoff.later_from.as_secs(),
        spread(backoff.later)
    )
}

fn long_table(text: &mut String, long: &[LossResult]) -> core::fmt::Result {
    writeln!(
        text,
        "\n## A long path\n\nCUBIC's function over Reno's is 0.86 RTT^(3/4) p^(-1/4), so it is 3 times Reno's where p is at \
         most RTT^3 / 148 (seconds): at\n4e-7 with 40 ms, which would take a window of 5900 segments, and at 5.4e-5 with \
         200 ms. Here are 200 ms, the queue again one\nbandwidth-delay product, {SEEDS} seeds of 400 s each.\n\n\
         | loss | stack | goodput | predicted for CUBIC | ratio | to NewReno without SACK | predicted | RTOs |\n\
         |---|---|---|---|---|---|---|---|"
    )?;
    for r in long {
        let goal = predicted(r.loss, r.rtt);
        let columns = if r.stack == CUBIC {
            let (ratio, reno) = (r.goodput.median / goal, reno(r.loss, r.rtt));
            format!(
                "{} | {ratio:.2} | {:.2} | {:.2}",
                mbit(goal),
                r.goodput.median / find(long, r, NEWRENO_NO_SACK),
                goal / reno
            )
        } else {
            " | | 1.00 | ".to_owned()
        };
        writeln!(
            text,
            "| {} % | {} | {} | {columns} | {} |",
            r.loss * 100.0,
            r.stack.name(),
            spread(r.goodput),
            r.timeouts
        )?;
    }
    Ok(())
}

fn shared_table(text: &mut String, shared: &[Shared]) -> core::fmt::Result {
    writeln!(
        text,
        "\n## Four flows share the link\n\nBegun 5 s apart; measured for 120 s from the 30th second on; {SEEDS} seeds.\n\n\
         | stack | Jain's index: median (least to largest) | goodput of all, Mbit/s | dropped by the queue | RTOs |\n\
         |---|---|---|---|---|"
    )?;
    for run in shared {
        let Spread { median, min, max } = run.jain;
        writeln!(
            text,
            "| {} | {median:.3} ({min:.3} to {max:.3}) | {} | {} | {} |",
            run.stack.name(),
            spread(run.goodput),
            run.dropped,
            run.timeouts
        )?;
    }
    writeln!(text, "\n![Four flows](results/shared.svg)")
}

fn queue_table(text: &mut String, queues: &[Queue]) -> core::fmt::Result {
    writeln!(
        text,
        "\n## The queue of one flow\n\nEvery 20 ms from the 5th to the 40th second, no random loss.\n\n\
         | stack | goodput, Mbit/s | mean queue, bytes | 95 % below, bytes | dropped, start included |\n|---|---|---|---|---|"
    )?;
    for run in queues {
        let name = run.stack.name();
        writeln!(
            text,
            "| {name} | {} | {:.0} | {:.0} | {} |",
            mbit(run.goodput),
            run.mean,
            run.p95,
            run.dropped
        )?;
    }
    for run in queues {
        let name = run.stack.name();
        writeln!(text, "\n![{name} over time](results/flow-{}.svg)", name.to_lowercase())?;
    }
    Ok(())
}

fn recovery_table(text: &mut String, recovery: &[Recovery]) -> core::fmt::Result {
    writeln!(
        text,
        "\n## Recovery\n\nCUBIC with SACK, a queue that does not overflow; sums over the transfers.\n\n\
         Of what is sent again on a path that only reorders, the last column is what the sender could \
         have known better: after the first\nD-SACK, delivery out of order or late original.\n\n\
         | trouble | transfers | lost | sent again | most in excess in one | RTOs | tail probes | undone | D-SACKs | after the lesson |\n\
         |---|---|---|---|---|---|---|---|---|---|"
    )?;
    for r in recovery {
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            r.what,
            r.transfers,
            r.lost,
            r.retransmits,
            r.spurious_max,
            r.timeouts,
            r.tail_probes,
            r.undos,
            r.dsacks,
            r.after_lesson
        )?;
    }
    Ok(())
}

/// The same for programs.
pub fn json(
    loss: &[LossResult],
    long: &[LossResult],
    shared: &[Shared],
    queues: &[Queue],
    recovery: &[Recovery],
) -> Value {
    let spread = |s: Spread| json!({"median": s.median, "min": s.min, "max": s.max});
    json!({
        "unit": "payload bits per second, bytes",
        "random_loss": loss.iter().chain(long).map(|r| json!({
            "stack": r.stack.name(), "rtt_ms": r.rtt.as_millis() as u64, "loss": r.loss, "burst_packets_max": r.burst,
            "goodput": spread(r.goodput), "predicted_for_cubic": predicted(r.loss, r.rtt), "timeouts": r.timeouts,
            "spurious": r.spurious, "lost": r.lost,
        })).collect::<Vec<_>>(),
        "shared_link": shared.iter().map(|r| json!({
            "stack": r.stack.name(), "jain": spread(r.jain), "goodput": spread(r.goodput), "dropped": r.dropped,
            "timeouts": r.timeouts,
        })).collect::<Vec<_>>(),
        "queue": queues.iter().map(|r| json!({
            "stack": r.stack.name(), "goodput": r.goodput, "mean": r.mean, "p95": r.p95, "dropped": r.dropped,
        })).collect::<Vec<_>>(),
        "recovery": recovery.iter().map(|r| json!({
            "trouble": r.what, "transfers": r.transfers, "lost": r.lost, "retransmits": r.retransmits,
            "spurious_max": r.spurious_max, "timeouts": r.timeouts, "tail_probes": r.tail_probes, "undos": r.undos,
            "dsacks": r.dsacks, "after_lesson": r.after_lesson,
        })).collect::<Vec<_>>(),
    })
}
