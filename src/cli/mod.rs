//! The command line: the only module that prints, and the only one that ends the process.

mod allocator;
mod args;
mod bench;
mod calibrate;
mod convert;
mod eta;
mod eval;
mod formats;
mod generate;
mod inspect;
mod lines;
mod open;
mod options;
mod passes;
mod progress;
mod signals;
mod text;
mod ui;
mod wording;
mod zeros;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::runtime::kernels::isa::KernelIsa;
use crate::{Error, Result};
use args::{Args, Command};

/// Runs the program. Exits with 0 on success, 1 on failure, 2 on wrong usage and 130 when interrupted.
pub fn main() -> ExitCode {
    let args = Args::parse();
    let result = match &args.command {
        Command::Convert(a) => start(&args).and_then(|()| convert::run(a, &args.common)),
        Command::Calibrate(a) => start(&args).and_then(|()| calibrate::run(a, &args.common)),
        Command::Inspect(a) => start(&args).and_then(|()| inspect::run(a, &args.common)),
        Command::Eval(a) => start(&args).and_then(|()| eval::run(a, &args.common)),
        Command::Bench(a) => start(&args).and_then(|()| bench::run(a, &args.common)),
        Command::Generate(a) => start(&args).and_then(|()| generate::run(a, &args.common)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if ui::is_broken_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            ui::failure(&e, args.common.json);
            if matches!(e, Error::Interrupted) { ExitCode::from(signals::INTERRUPTED) } else { ExitCode::FAILURE }
        }
    }
}

/// The commands and flags as clap knows them. Help and docs are generated from it.
pub fn definition() -> clap::Command {
    Args::command()
}

fn start(args: &Args) -> Result<()> {
    allocator::keep();
    signals::explain_lost_files(args.common.json)?;
    if let Some(name) = &args.common.isa {
        let present = KernelIsa::present();
        let found = present.iter().find(|isa| isa.name() == name.as_str()).ok_or_else(|| {
            let names: Vec<_> = present.iter().map(|isa| isa.name()).collect();
            Error::setting("isa", name, format!("this machine has {}", names.join(", ")))
        })?;
        found.choose();
    }
    if let Some(n) = args.common.threads {
        rayon::ThreadPoolBuilder::new()
            .num_threads(n.into())
            .build_global()
            .map_err(|e| Error::resources(format!("start {n} threads"), e))?;
    }
    Ok(())
}
