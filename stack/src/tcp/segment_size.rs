//! How long a connection's segments may be (RFC 9293 section 3.7.1): the MSS options of both ends, the MTU that the egress states
//! or ICMP tells, and what headers and options take of it. The search for a larger one is in `path_mtu`.

use super::connection::Connection;

/// Default send MSS when the peer states none (RFC 9293 section 3.7.1, MUST-15).
pub(super) const DEFAULT_MSS_IPV4: u16 = 536;
pub(super) const DEFAULT_MSS_IPV6: u16 = 1220;
/// Least payload a segment is cut to, whatever the peer's MSS option says: smaller ones cost more than they carry
/// (Linux's `tcp_min_snd_mss`).
const MSS_MIN: u16 = 48;
/// Least path MTU believed from ICMP: Linux's `min_pmtu` for IPv4, RFC 8200 section 5 for IPv6.
const PATH_MTU_MIN_IPV4: u16 = crate::limits::PATH_MTU_MIN_IPV4;
const PATH_MTU_MIN_IPV6: u16 = 1280;
/// Bytes that timestamps take in every segment.
const TIMESTAMPS_LEN: u16 = 12;

impl Connection {
    pub(super) fn fixed_headers(&self) -> u16 {
        if self.key.is_ipv4() { 40 } else { 60 }
    }

    pub(super) fn set_peer_mss(&mut self, mss: Option<u16>) {
        let default = if self.key.is_ipv4() { DEFAULT_MSS_IPV4 } else { DEFAULT_MSS_IPV6 };
        self.peer_mss = mss.unwrap_or(default);
        self.update_mss();
    }

    /// RFC 9293 section 3.7.1: the smaller of what the peer and what the path takes, less our options.
    /// RFC 9293 section 3.7.1, MUST-16.
    pub(super) fn update_mss(&mut self) {
        self.mss = self.payload_of(if self.mtu == 0 { u16::MAX } else { self.mtu });
    }

    /// The MTU that the egress states, asked once a connection and when what ICMP told since is old.
    pub(super) fn learn_mtu(&mut self, path_mtu: impl FnOnce() -> usize) {
        if self.mtu == 0 {
            self.mtu = path_mtu().clamp(usize::from(self.path_mtu_min()), usize::from(u16::MAX)) as u16;
            self.update_mss();
        }
    }

    pub(super) fn forget_mtu(&mut self) {
        self.mtu = 0;
    }

    pub(super) fn path_mtu_min(&self) -> u16 {
        if self.key.is_ipv4() { PATH_MTU_MIN_IPV4 } else { PATH_MTU_MIN_IPV6 }
    }

    pub(super) fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Takes a lower MTU from ICMP or the egress; whether it is one. 0 stands for a router that does not say.
    pub(super) fn lower_mtu(&mut self, mtu: usize) -> bool {
        let mtu = mtu.max(usize::from(self.path_mtu_min())).min(usize::from(u16::MAX)) as u16;
        if self.mtu == 0 || mtu >= self.mtu {
            return false;
        }
        self.limit_mtu_search(mtu);
        self.mtu = mtu;
        self.update_mss();
        self.resend_smaller();
        true
    }

    /// A larger packet than the path was known to carry has arrived.
    pub(super) fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu;
        self.update_mss();
    }

    /// Payload of a full segment in a packet of `mtu` bytes: the effective send MSS (RFC 9293 section 3.7.1).
    pub(super) fn payload_of(&self, mtu: u16) -> u16 {
        let options = if self.ts_enabled { TIMESTAMPS_LEN } else { 0 } + self.ecn.option_len();
        let most = self.options.maxseg.unwrap_or(u16::MAX).min(mtu.saturating_sub(self.fixed_headers()));
        self.peer_mss.min(most).saturating_sub(options).max(MSS_MIN)
    }

    /// The MSS option of our SYN (RFC 9293 section 3.7.1, RFC 6691): what the link carries less the fixed headers, or what the
    /// application chose. What the path carries towards the peer says nothing of the way back.
    /// RFC 9293 section 3.7.1, SHLD-6, MUST-67.
    pub(super) fn our_mss(&self) -> u16 {
        let of_link =
            if self.our_mss > 0 { self.our_mss } else { self.mtu.saturating_sub(self.fixed_headers()) };
        of_link.min(self.options.maxseg.unwrap_or(u16::MAX))
    }

    pub(super) fn set_our_mss(&mut self, link_mtu: usize) {
        let mtu = link_mtu.clamp(usize::from(self.path_mtu_min()), usize::from(u16::MAX)) as u16;
        self.our_mss = mtu.saturating_sub(self.fixed_headers());
    }
}
