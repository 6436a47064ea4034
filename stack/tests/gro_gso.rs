//! GRO and then GSO change nothing that a peer can tell: whatever arrives, in whatever order, leaves for each flow as the same
//! packets in the same order, whether or not they were merged in between and translated as one.

use bywash::sim::bursts::{Options, Rewrite, Spec, check};
use proptest::prelude::*;

/// Mostly what follows; now and then something else about it.
fn spec() -> impl Strategy<Value = Spec> {
    let rarely = |strategy: BoxedStrategy<u16>| prop_oneof![12 => Just(0u16), 1 => strategy];
    let order = (
        prop_oneof![20 => Just(0i16), 1 => any::<i16>(), 1 => -3000i16..3000],
        prop_oneof![12 => Just(1000u16), 1 => 0u16..3000, 1 => Just(0)],
        rarely(prop_oneof![any::<u16>(), Just(8u16), Just(1), Just(0x80), Just(0x40), Just(0x1c0)].boxed()),
    );
    let header = (rarely(any::<u16>().boxed()), rarely((0u16..3).boxed()), rarely((0u16..3).boxed()));
    let options = prop_oneof![
        10 => Just(Options::None),
        10 => Just(Options::Timestamps(0)),
        1 => any::<u8>().prop_map(Options::Timestamps),
        1 => any::<u8>().prop_map(Options::Sack),
    ];
    let network = (
        rarely(any::<u16>().boxed()),
        rarely(any::<u16>().boxed()),
        rarely((0u16..16).boxed()),
        prop_oneof![9 => Just(false), 1 => Just(true)],
    );
    (any::<u8>(), order, header, options, network).prop_map(
        |(flow, (seq, len, flags), (ack, window, ident), options, (tos, hops, padding, partial_checksum))| {
            Spec {
                flow,
                seq,
                len,
                flags,
                ack,
                window: window as u8,
                options,
                ident: ident as u8,
                tos: tos as u8,
                hops: hops as u8,
                padding: padding as u8,
                partial_checksum,
            }
        },
    )
}

fn rewrite() -> impl Strategy<Value = Option<Rewrite>> {
    prop::option::of(
        (any::<u8>(), any::<u16>(), any::<u16>(), any::<u8>())
            .prop_map(|(mac, address, port, tos)| Rewrite { mac, address, port, tos }),
    )
}

proptest! {
    /// Few flows and few changes, so that long runs are merged.
    #[test]
    fn what_was_merged_is_cut_to_what_it_was(
        flows in prop::collection::vec(any::<u8>(), 1..4),
        mut specs in prop::collection::vec(spec(), 1..130),
        rewrite in rewrite(),
        frame_size in prop_oneof![Just(4096u32), Just(1024)],
    ) {
        for spec in &mut specs {
            spec.flow = flows[usize::from(spec.flow) % flows.len()];
        }
        let outcome = check(&specs, rewrite, frame_size);
        prop_assert_eq!(outcome.packets, specs.len());
    }
}

#[test]
fn a_train_of_segments_crosses_as_one_in_every_kind_of_flow() {
    // The last one is shorter and pushed.
    let train = |flow| {
        let full = Spec { flow, len: 1000, options: Options::Timestamps(0), ..Spec::default() };
        let last = Spec { len: 500, flags: 8, ..full.clone() };
        let mut train = vec![full; 40];
        train.push(last);
        train
    };
    let rewrite = Rewrite { mac: 9, address: 0x1234, port: 0xfedc, tos: 3 };
    for flow in 0..8 {
        let outcome = check(&train(flow), Some(rewrite), 2048);
        assert_eq!((outcome.packets, outcome.merged), (41, 1), "flow {flow}");
    }
    // Partial checksums are made whole on the way.
    let mut partial = train(0);
    partial.iter_mut().for_each(|spec| spec.partial_checksum = true);
    assert_eq!(check(&partial, Some(rewrite), 2048).merged, 1);
}
