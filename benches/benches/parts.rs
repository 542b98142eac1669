//! `cargo bench -p weft-benches`: the time of each part of a packet's way, by Criterion.

use criterion::{Criterion, criterion_group, criterion_main};
use weft_benches::parts::PARTS;

fn parts(criterion: &mut Criterion) {
    for part in PARTS {
        let mut step = (part.make)();
        criterion.bench_function(part.name, |bencher| bencher.iter(&mut *step));
    }
}

criterion_group!(benches, parts);
criterion_main!(benches);
