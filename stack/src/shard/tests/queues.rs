//! Several shards of one interface: what comes to the wrong queue finds its shard.

use core::net::SocketAddr;

use super::*;
use crate::counters::DropReason;

/// Host 1 with three shards, opposite host 2 with one; all that host 2 sends arrives at queue `queue`.
struct World {
    shards: Vec<Host>,
    peer: Host,
    queue: usize,
    now: Instant,
}

impl World {
    fn new(queue: usize) -> Self {
        let links = Shard::links(3).into_iter().enumerate();
        let shards = links.map(|(index, links)| Host::with(1, &config(1), index as u16, links, MTU));
        Self { shards: shards.collect(), peer: Host::new(2, &config(2)), queue, now: Instant::from_millis(1) }
    }

    fn settle(&mut self) {
        for _ in 0..1000 {
            let mut busy = self.peer.poll(self.now);
            for shard in &mut self.shards {
                busy |= shard.poll(self.now);
                busy |= !shard.device.tx.is_empty();
                self.peer.device.rx.append(&mut shard.device.tx);
            }
            busy |= !self.peer.device.tx.is_empty();
            self.shards[self.queue].device.rx.append(&mut self.peer.device.tx);
            if !busy {
                return;
            }
        }
        panic!("the hosts do not come to rest");
    }

    fn drops(&self) -> Vec<(DropReason, u64)> {
        self.shards.iter().flat_map(drops).collect()
    }
}

#[test]
fn arp_and_echo_replies_reach_the_shard_that_asked() {
    for queue in 0..3 {
        for asker in 0..3 {
            for to in ["192.0.2.2", "2001:db8::2"] {
                let mut world = World::new(queue);
                let shard = &mut world.shards[asker].shard;
                let id = shard.ping_open(ip(to)).unwrap();
                shard.ping_send(id, 1, b"x", None).unwrap();
                world.settle();
                let reply = ready(world.shards[asker].shard.ping_poll_recv(id, no_waker())).unwrap();
                assert_eq!((reply.from, usize::from(reply.ident) % 3), (ip(to), asker));
                assert_eq!(world.drops(), []);
            }
        }
    }
}

#[test]
fn datagrams_reach_the_socket_on_any_shard() {
    let mut world = World::new(0);
    for (owner, port) in [(1, 3000u16), (2, 3000), (0, 3001), (2, 3001)] {
        let shard = &mut world.shards[owner].shard;
        let id = shard.udp_bind(SocketAddr::new(ip("192.0.2.1"), port)).unwrap();
        let from = world.peer.shard.udp_bind("0.0.0.0:0".parse().unwrap()).unwrap();
        let to = SocketAddr::new(ip("192.0.2.1"), port);
        ready(world.peer.shard.udp_poll_send_to(from, b"x", to, no_waker())).unwrap();
        world.settle();
        let mut buffer = [0; 8];
        let shard = &mut world.shards[owner].shard;
        assert_eq!(ready(shard.udp_poll_recv_from(id, &mut buffer, no_waker())).unwrap().0, 1);
        shard.udp_close(id);
        assert_eq!(world.drops(), []);
    }
}

#[test]
fn the_last_shard_asked_reports_a_closed_port() {
    let mut world = World::new(1);
    let from = world.peer.shard.udp_bind("0.0.0.0:0".parse().unwrap()).unwrap();
    ready(world.peer.shard.udp_poll_send_to(from, b"x", "192.0.2.1:9".parse().unwrap(), no_waker())).unwrap();
    world.settle();
    assert_eq!(world.drops(), [(DropReason::UdpNoSocket, 1)]);
    assert_eq!(world.peer.shard.counters().icmp_rx, 1);
    let handed: u64 = world.shards.iter().map(|host| host.shard.counters().rx_handed_over).sum();
    assert_eq!(handed, 2);
}

#[test]
fn ephemeral_ports_belong_to_their_shard() {
    let mut world = World::new(0);
    for (index, host) in world.shards.iter_mut().enumerate() {
        for _ in 0..20 {
            let id = host.shard.udp_bind("0.0.0.0:0".parse().unwrap()).unwrap();
            let port = host.shard.udp_local_addr(id).unwrap().port();
            assert_eq!(usize::from(port) % 3, index);
        }
    }
}

#[test]
fn the_runtime_is_told_whom_to_wake() {
    let mut world = World::new(0);
    let woken = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let log = woken.clone();
    world.shards[0].shard.set_notify(Box::new(move |shard| log.borrow_mut().push(shard)));
    let shard = &mut world.shards[2].shard;
    let id = shard.ping_open(ip("192.0.2.2")).unwrap();
    shard.ping_send(id, 1, b"x", None).unwrap();
    world.settle();
    // The ARP reply for all, then the echo reply for the third.
    assert_eq!(*woken.borrow(), [1, 2, 2]);
}
