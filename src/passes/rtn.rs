//! Round to nearest: every matrix that has no codes yet is encoded in its format, with column errors weighed by the
//! inputs, or with codes that compensate for each other's errors, as far as the weights show which inputs are
//! correlated.

use aurora_quantizers::gptq::{self, Guess};
use aurora_quantizers::spec::Kind;
use aurora_quantizers::{Care, Scales, Scan, matrix, matrix_mut, par, prune, scan};
use ndarray::Array2;
use rayon::prelude::*;

use super::{BlockState, Log, Needs, Pass, PassRow, StatsKind};
use crate::Result;
use crate::model::{Reader, Role};
use crate::options::{Opt, OptKind};

/// Row of the table.
pub const ROW: PassRow = PassRow {
    name: super::RTN,
    about: "rounds to nearest, with searched scales",
    options: &[SCALES, CODES],
    solves: true,
    // Floats are rounded, too.
    for_codes: false,
    compensates: false,
    prunes: false,
    make: |options, _| Box::new(Rtn { nearest: !options.word(CODES.name, &JOINT) }),
};

/// How scales are found. Only a conversion that does not run the model can use ggml's formula.
pub const SCALES: Opt = Opt {
    name: "scales",
    about: "How scales are found. search: for the smallest error; reference: by ggml's formula, for the same bytes as \
            llama-quantize (only q4_0, q4_1, q5_0, q5_1, q8_0, mxfp4 and floats)",
    kind: OptKind::Word(&["search", "reference"]),
    default: "search",
};

/// Whether scales follow ggml's formula.
pub const REFERENCE: [(&str, bool); 2] = [("search", false), ("reference", true)];

/// How codes are chosen for searched scales.
pub const CODES: Opt = Opt {
    name: "codes",
    about: "How rtn chooses codes for searched scales. joint: so that errors cancel for likely inputs, as estimated \
            from the weights; nearest: each weight on its own",
    kind: OptKind::Word(&["joint", "nearest"]),
    default: "joint",
};

/// Whether codes are chosen jointly.
pub const JOINT: [(&str, bool); 2] = [("joint", true), ("nearest", false)];

/// The pass.
struct Rtn {
    /// Whether every weight is rounded on its own.
    nearest: bool,
}

impl Pass for Rtn {
    fn needs(&self) -> Needs {
        StatsKind::Diagonal.into()
    }

    fn apply(&self, block: &mut BlockState<'_>, log: &mut dyn Log) -> Result<()> {
        for site in 0..block.sites().len() {
            for reader in 0..block.sites()[site].site.readers.len() {
                let state = &block.sites()[site];
                let linear = state.site.readers[reader];
                let blocks = block.store(linear.weight).spec().kind == Kind::Block;
                if !blocks || block.codes(linear).is_some() {
                    continue;
                }
                if let Some(bytes) = block.stored(linear) {
                    block.set_codes(linear, bytes);
                    continue;
                }
                log.begin(&block.graph().param(linear.weight).name)?;
                let stats = state.seen_by(linear.expert);
                let importance = (stats.tokens() > 0).then(|| stats.mean_sq());
                let bytes = encode(block, linear, importance.as_deref(), self.nearest)?;
                block.set_codes(linear, bytes);
            }
        }
        Ok(())
    }
}

/// Encodes a whole matrix. `nearest`: each weight on its own. Chunks depend only on its shape.
///
/// # Errors
/// If a weight is not finite or is too large for the format.
pub(super) fn encode(
    block: &BlockState<'_>,
    linear: Reader,
    importance: Option<&[f32]>,
    nearest: bool,
) -> Result<Vec<u8>> {
    let (rows, cols) = block.shape(linear);
    let store = block.store(linear.weight);
    let row_bytes = store.spec().bytes_for(cols).expect("the plan chose a format that divides the row");
    let mask = block.mask(linear);
    let nearest = nearest || mask.is_some();
    let mut guess = None;
    // A row of a lookup table is itself an output.
    let looked_up = block.graph().param(linear.weight).role == Role::Embedding;
    if !nearest && !looked_up && Guess::helps(store.spec()) {
        let mut sample = Vec::new();
        for some in gptq::sample(rows) {
            let at = sample.len();
            sample.resize(at + some.len() * cols, 0.0);
            block.rows(linear, some, matrix_mut(&mut sample[at..], cols));
        }
        let sample = Array2::from_shape_vec((sample.len() / cols, cols), sample).expect("whole rows");
        guess = Guess::of(sample, importance, Care::Full);
    }
    let step = par::rows_for(par::CHUNK_WEIGHTS, cols);
    let mut bytes = vec![0; rows * row_bytes];
    let scans = bytes.par_chunks_mut(step * row_bytes).enumerate().map_init(Vec::new, |values, (i, bytes)| {
        let some = i * step..(i * step + bytes.len() / row_bytes);
        values.resize(some.len() * cols, 0.0);
        block.rows(linear, some, matrix_mut(values, cols));
        let seen = scan(values);
        if seen.check(store.spec()).is_ok() {
            match (mask, &guess, store.blocks()) {
                (Some(mask), ..) => prune::encode(store, values, (mask, i * step), importance, bytes),
                (_, Some(guess), Some(blocks)) => guess.encode(blocks, matrix(values, cols), importance, bytes),
                _ => store.encode(values, Scales::Search(importance), bytes),
            }
        }
        (seen, (i * step * cols) as u64)
    });
    let scans: Vec<(Scan, u64)> = scans.collect();
    let seen = scans.into_iter().fold(Scan::default(), |all, (seen, first)| all.merge(seen, first));
    seen.check(store.spec()).map_err(|e| block.error(linear, &e))?;
    Ok(bytes)
}
