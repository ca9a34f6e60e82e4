//! Lists the tensors of a checkpoint: `cargo run --release --example inspect -- MODEL`.

use std::process::ExitCode;

use aurora_quant::checkpoint;

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: inspect MODEL");
        return ExitCode::from(2);
    };
    match checkpoint::open(path.as_ref()) {
        Ok(source) => {
            for tensor in source.tensors() {
                println!("{} {:?} {}", tensor.name, tensor.shape, tensor.spec.name);
            }
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}
