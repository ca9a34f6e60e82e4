//! Scores a model on the embedded held-out text: `cargo run --release --example perplexity -- MODEL [REFERENCE]`.

use std::process::ExitCode;

use aurora_quant::eval::Evaluation;
use aurora_quant::watch::Unwatched;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let Some(model) = args.next() else {
        eprintln!("usage: perplexity MODEL [REFERENCE]");
        return ExitCode::from(2);
    };
    let evaluation = Evaluation { reference: args.next().map(Into::into), ..Evaluation::new(model) };
    match evaluation.run(&Unwatched) {
        Ok(record) => {
            println!("perplexity {:.4} +- {:.4}", record.perplexity.value, record.perplexity.error);
            if let Some(beside) = record.divergence {
                println!("KL divergence {:.6} +- {:.6} nats", beside.kl.value, beside.kl.error);
            }
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}
