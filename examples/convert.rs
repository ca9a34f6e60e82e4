//! Converts a checkpoint: `cargo run --release --example convert -- MODEL OUT` writes the bytes that
//! `aurora-quant convert MODEL -o OUT` does.

use std::process::ExitCode;

use aurora_quant::job::{self, Destination};
use aurora_quant::recipe::Recipe;
use aurora_quant::watch::Unwatched;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let (Some(model), Some(out), None) = (args.next(), args.next(), args.next()) else {
        eprintln!("usage: convert MODEL OUT");
        return ExitCode::from(2);
    };
    let to = Destination { path: Some(out.into()), ..Destination::default() };
    match job::prepare(&Recipe::new(model)).and_then(|job| job.run(&to, &Unwatched)) {
        Ok(record) => {
            println!("{}: {} bytes, {:.2} bits per weight", record.output, record.file_bytes, record.bits_per_weight);
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}
