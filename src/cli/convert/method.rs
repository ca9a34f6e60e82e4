//! The method of a conversion: its passes, their settings, and the run over the blocks.

use std::path::Path;

use flate2::Crc;

use super::{CODES, SCALES};
use crate::calibrate::imatrix::Imatrix;
use crate::checkpoint::TensorSource;
use crate::cli::args::Convert;
use crate::cli::calibrate;
use crate::export::Output;
use crate::model::Model;
use crate::passes::{self, Duo, Pass, Settings};
use crate::pipeline;
use crate::pipeline::blocks::{Job, Propagate, Solved};
use crate::pipeline::resume::Resume;
use crate::plan::Plan;
use crate::watch::Watch;
use crate::weights::Weights;
use crate::{Error, Result};

/// Samples that a method is calibrated on, unless asked otherwise.
const SAMPLES: usize = 128;

/// Whether a method other than rounding to nearest is asked for.
pub(super) fn solves(args: &Convert) -> bool {
    !args.method.eq_ignore_ascii_case("rtn")
}

/// The chain of methods, with what --clip adds.
fn method(args: &Convert) -> Result<String> {
    if !args.solving.clip {
        return Ok(args.method.clone());
    }
    match args.method.eq_ignore_ascii_case("awq") {
        true => Ok(format!("{}+clip", args.method)),
        false => Err(Error::unsupported(format!(
            "--clip belongs to --method awq alone; {} finds its own ranges",
            args.method
        ))),
    }
}

/// The passes of the method, if it is more than rounding to nearest.
pub(super) fn passes(args: &Convert) -> Result<Option<Vec<Box<dyn Pass>>>> {
    let solving = &args.solving;
    let settings = Settings {
        nearest: args.codes == CODES[1],
        damp: solving.damp,
        act_order: solving.act_order == "static",
        refine: solving.refine,
        grid: usize::from(solving.grid),
        duo: match solving.duo.as_str() {
            "on" => Duo::On,
            "off" => Duo::Off,
            _ => Duo::Both,
        },
    };
    let chain = passes::chain(&method(args)?, &settings)?;
    if args.stats.is_some() && (!solves(args) || solving.propagate != "float") {
        let what = "--stats is for a --method that calibrates, on what the original model gives every block; --imatrix is what \
                    rounding to nearest takes";
        return Err(Error::unsupported(what));
    }
    if !solves(args) {
        return Ok(None);
    }
    let other = [
        (args.imatrix.is_some(), "--imatrix"),
        (args.calibrate, "--calibrate"),
        (args.scales == SCALES[1], "--scales reference"),
    ];
    if let Some((_, option)) = other.iter().find(|(given, _)| *given) {
        let what = format!("--method {} makes its own statistics and scales; leave out {option}", args.method);
        return Err(Error::unsupported(what));
    }
    Ok(Some(chain))
}

/// Runs the passes block by block, and says what is left.
#[allow(clippy::too_many_arguments)] // Everything that a conversion has, once.
pub(super) fn solve(
    args: &Convert,
    passes: &[Box<dyn Pass>],
    source: &dyn TensorSource,
    model: &Model,
    weights: &Weights,
    plan: &Plan,
    path: &Path,
    output: &Output,
    watch: &dyn Watch,
) -> Result<(Solved, Option<Resume>)> {
    if let Some(path) = &args.stats {
        let statistics = Imatrix::open(path)?;
        let solved = pipeline::stored::run(model, weights, plan, passes, &statistics, output, watch)?;
        return Ok((solved, None));
    }
    let data = calibrate::dataset(&args.sampling, Some(SAMPLES), source, model)?;
    let propagate = if args.solving.propagate == "float" { Propagate::Float } else { Propagate::Quantized };
    let resume = match args.solving.resume {
        true => Some(Resume::open(Resume::directory(path), &job(args, source, plan, &data.samples))?),
        false => None,
    };
    let job = Job { samples: &data.samples, passes, propagate };
    let solved = pipeline::blocks::run(model, weights, plan, &job, resume.as_ref(), output, watch)?;
    Ok((solved, resume))
}

/// All that the bytes of a run depend on, a line each.
fn job(args: &Convert, source: &dyn TensorSource, plan: &Plan, samples: &[Vec<u32>]) -> String {
    let mut sum = Crc::new();
    samples.iter().flatten().for_each(|token| sum.update(&token.to_le_bytes()));
    let tokens: usize = samples.iter().map(Vec::len).sum();
    let mut types = Crc::new();
    plan.tensors.iter().for_each(|t| types.update(format!("{} {}\n", t.name, t.actual.name).as_bytes()));
    let mut tensors = Crc::new();
    source.tensors().iter().for_each(|t| {
        tensors.update(format!("{} {:?} {}\n", t.name, t.shape, t.spec.name).as_bytes());
        // Some of every tensor's bytes tell one checkpoint from another of its shape without reading it all.
        let head = t.range.len().min(256);
        tensors.update(source.bytes(t, 0..head));
    });
    format!(
        "aurora-quant {}\nmodel {} {:08x}\nmethod {} {} {:?}\ntypes {} {:08x}\ntext {tokens} tokens in {} samples, {:08x}\n",
        env!("CARGO_PKG_VERSION"),
        args.model.display(),
        tensors.sum(),
        args.method,
        args.codes,
        args.solving,
        plan.file_type,
        types.sum(),
        samples.len(),
        sum.sum()
    )
}
