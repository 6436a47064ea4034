//! Proportional rate reduction (RFC 9937): how much may be sent for each ACK while the congestion window shrinks to what
//! congestion control decided, neither pausing nor bursting.

/// State of one episode. Bytes throughout.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Prr {
    /// The target: what is in flight when the episode is over.
    ssthresh: u32,
    /// What may be delivered during the episode at most: RecoverFS.
    flight: u32,
    delivered: u64,
    out: u64,
    cwnd: u32,
}

impl Prr {
    /// An episode begins (section 6.1): `flight` as section 6.1 adds it up.
    pub(super) fn begin(ssthresh: u32, flight: u32) -> Self {
        Self { ssthresh, flight: flight.max(1), delivered: 0, out: 0, cwnd: ssthresh }
    }

    /// The congestion window meanwhile.
    pub(super) fn cwnd(&self) -> u32 {
        self.cwnd
    }

    /// RecoverFS.
    pub(super) fn flight(&self) -> u32 {
        self.flight
    }

    /// Bytes delivered in the episode.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// An ACK that delivered something (section 6.2). `safe`: SND.UNA advanced and nothing more was found lost.
    pub(super) fn on_ack(&mut self, delivered: u32, in_flight: u32, safe: bool, mss: u32) {
        if delivered == 0 {
            return;
        }
        self.delivered += u64::from(delivered);
        let owed = self.delivered.saturating_sub(self.out);
        let mut count = if in_flight > self.ssthresh {
            let share = (self.delivered * u64::from(self.ssthresh)).div_ceil(u64::from(self.flight));
            share.saturating_sub(self.out)
        } else {
            let count = owed.max(u64::from(delivered)) + if safe { u64::from(mss) } else { 0 };
            count.min(u64::from(self.ssthresh - in_flight))
        };
        if self.out == 0 {
            // The first segment goes at once; less than one could not.
            count = count.max(u64::from(mss));
        }
        self.cwnd = in_flight.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// Something was sent (section 6.3).
    pub(super) fn on_send(&mut self, bytes: u32) {
        self.out += u64::from(bytes);
    }
}
