//! Host-side costs of the table builder and the flow hash, for work on them; the product's figures come from
//! `cargo xtask bench`.
use criterion::{Criterion, criterion_group, criterion_main};
use lb_common::hash::{HashKey, Tuple, flow_hash};
use lb_common::maglev::{Candidate, build};

fn maglev(c: &mut Criterion) {
    let mut table = vec![0; 65_537];
    let pool: Vec<_> = (0..1_000u16).map(|i| Candidate::new(&i.to_be_bytes(), i + 1, 1)).collect();
    c.bench_function("maglev_build_1000", |b| b.iter(|| build(&mut table, &mut pool.clone())));
}

fn hash(c: &mut Criterion) {
    let v4 = |text: &str| text.parse::<core::net::IpAddr>().expect("an address").into();
    let tuple = Tuple {
        src: v4("198.51.100.7"),
        dst: v4("203.0.113.10"),
        src_port: lb_common::be::Be16::new(40_001),
        dst_port: lb_common::be::Be16::new(80),
        protocol: 6,
    };
    let key = HashKey([1, 2]);
    c.bench_function("flow_hash_v4", |b| b.iter(|| flow_hash(key, std::hint::black_box(&tuple))));
}

criterion_group!(benches, maglev, hash);
criterion_main!(benches);
