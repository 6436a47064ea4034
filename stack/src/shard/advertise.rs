//! A router makes itself known to the hosts of its links ([`crate::net::router_advert`]): on all shards those that ask, on the
//! first one all of them from time to time.

use super::Shard;
use super::links::Message;
use crate::config::Cidr;
use crate::counters::DropReason;
use crate::net::ndp;
use crate::net::router_advert::{Advertiser, Asker};
use crate::time::Instant;

impl Shard {
    pub(super) fn begin_advertising(&mut self, now: Instant) {
        let Some(forward) = &self.config.forward else { return };
        for (link, advertise) in &forward.advertise {
            let here = self.config.addresses.iter().filter(|(_, on)| on == link);
            let addresses: Vec<Cidr> = here.map(|(cidr, _)| *cidr).collect();
            let Some(link) = self.output.links.get_mut(*link) else { continue };
            let speaks = self.index == 0;
            link.advertiser = Some(Advertiser::new(advertise, &addresses, link.mac, link.mtu, speaks, now));
        }
    }

    /// A host of `link` wants to know of this router. All hosts are told by the first shard, so that they are not told too often.
    pub(super) fn router_asked(&mut self, now: Instant, link: usize, asker: Asker) {
        if asker == Asker::All && self.index != 0 {
            if !self.links.send(0, Message::RouterAsked(link)) {
                self.counters.drop(DropReason::ShardChannelFull);
            }
            return;
        }
        if let Some(advertiser) = &mut self.output.links[link].advertiser {
            advertiser.asked(now, asker, &mut self.rng);
        }
    }

    /// This router is about to go: hosts are told to use it as their default router no longer (RFC 4861 section 6.2.5).
    pub fn stop_advertising(&mut self) {
        for link in 0..self.output.links.len() {
            let last = self.output.links[link].advertiser.take().and_then(|mut advertiser| advertiser.end());
            if let Some(mut message) = last {
                ndp::advertise_router(&mut self.output, link, Asker::All, &mut message);
            }
        }
    }
}
