//! Writes the seed corpora: `cargo run --bin seeds` from this directory, after a change of the inputs' shape.
//!
//! The parser's seeds are one frame of each kind; the shard's are the lives of connections, written in the encoding that
//! `arbitrary` reads (its inverse is `Encoder`; a test holds the two together); those of `gro` are bursts, and those of
//! `gro_gso` trains of segments with one that differs.

use std::fs;
use std::io;
use std::path::Path;

use bywash_fuzz::gro;
use bywash_fuzz::gro_gso::seeds as gro_gso_seeds;
use bywash_fuzz::seeds::{parse_seeds, shard_seeds};

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let gro = gro::seeds().into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
    let targets = [
        ("parse", parse_seeds()),
        ("shard", shard_seeds()),
        ("gro", gro),
        ("gro_gso", gro_gso_seeds()),
        ("rules", bywash_fuzz::rules::seeds()),
        ("conntrack", bywash_fuzz::conntrack::seeds()),
        ("nat_icmp", bywash_fuzz::nat_icmp::seeds()),
    ];
    for (target, seeds) in targets {
        let dir = corpus.join(target);
        fs::create_dir_all(&dir)?;
        for (name, bytes) in seeds {
            fs::write(dir.join(name), bytes)?;
        }
    }
    Ok(())
}
