//! Tells the instruction counts how far the code is optimised: each level has figures of its own.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let level = std::env::var("OPT_LEVEL").unwrap_or_default();
    println!("cargo::rustc-env=WEFT_BENCHES_LEVEL={level}");
}
