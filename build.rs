//! Compresses the calibration text that the binary carries.

use std::io::Write;
use std::path::Path;
use std::{env, fs};

fn main() {
    const TEXT: &str = "calibration-data/mix.txt";
    println!("cargo::rerun-if-changed={TEXT}");
    let text = fs::read(TEXT).expect("the calibration text belongs to the source");
    let mut packed = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(&text).expect("memory takes everything");
    let to = Path::new(&env::var_os("OUT_DIR").expect("cargo names a directory")).join("mix.deflate");
    fs::write(to, packed.finish().expect("memory takes everything")).expect("the build directory can be written");
}
