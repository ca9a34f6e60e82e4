//! Round to nearest: every matrix that has no codes yet gets those of its format's own encoder, which weighs each
//! column's error by what the inputs are like; or codes that make up for each other's errors, as far as the weights
//! tell which inputs go together.

use aurora_quantizers::gptq::{self, Guess};
use aurora_quantizers::spec::Kind;
use aurora_quantizers::{Care, Scales, Scan, matrix, par, scan};
use ndarray::Array2;
use rayon::prelude::*;

use super::{BlockState, Log, Needs, Opt, OptKind, Pass, PassRow, StatsKind};
use crate::Result;
use crate::model::{Reader, Role};

/// Row of the table.
pub const ROW: PassRow = PassRow {
    name: super::RTN,
    about: "rounds each weight to the nearest, with searched scales",
    options: &[SCALES, CODES],
    solves: true,
    compensates: false,
    make: |options, _| Box::new(Rtn { nearest: !options.word(CODES.name, &JOINT) }),
};

/// How scales are found. Only the conversion that runs no model can use ggml's formula.
pub const SCALES: Opt = Opt {
    name: "scales",
    about: "How the scales of blocks are found. search: for the smallest error; reference: by ggml's formula, the same bytes as \
            llama-quantize writes (only for the types named after one number, such as q4_0)",
    kind: OptKind::Word(&["search", "reference"]),
    default: "search",
};

/// Whether scales are those of ggml's formula.
pub const REFERENCE: [(&str, bool); 2] = [("search", false), ("reference", true)];

/// How codes are chosen on searched scales.
pub const CODES: Opt = Opt {
    name: "codes",
    about: "How rtn chooses codes on searched scales. joint: so that errors cancel in those directions that inputs take, as far \
            as the weights tell; nearest: every weight on its own",
    kind: OptKind::Word(&["joint", "nearest"]),
    default: "joint",
};

/// Whether codes are chosen together.
pub const JOINT: [(&str, bool); 2] = [("joint", true), ("nearest", false)];

/// The pass.
struct Rtn {
    /// Whether every weight gets the nearest level.
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

/// A whole matrix; `nearest`: each weight on its own. Chunks depend on its shape alone.
///
/// # Errors
/// If a weight is not finite, or too large for the format.
pub(super) fn encode(
    block: &BlockState<'_>,
    linear: Reader,
    importance: Option<&[f32]>,
    nearest: bool,
) -> Result<Vec<u8>> {
    let (rows, cols) = block.shape(linear);
    let store = block.store(linear.weight);
    let row_bytes = store.spec().bytes_for(cols).expect("the plan chose a format that divides the row");
    let mut guess = None;
    // A row of a table that is looked up as well is a result itself.
    let looked_up = block.graph().param(linear.weight).role == Role::Embedding;
    if !nearest && !looked_up && Guess::helps(store.spec()) {
        let mut sample = Vec::new();
        for some in gptq::sample(rows) {
            let at = sample.len();
            sample.resize(at + some.len() * cols, 0.0);
            block.rows(linear, some, &mut sample[at..]);
        }
        let sample = Array2::from_shape_vec((sample.len() / cols, cols), sample).expect("whole rows");
        guess = Guess::of(sample, importance, Care::Full);
    }
    let step = par::rows_for(par::CHUNK_WEIGHTS, cols);
    let mut bytes = vec![0; rows * row_bytes];
    let scans = bytes.par_chunks_mut(step * row_bytes).enumerate().map_init(Vec::new, |values, (i, bytes)| {
        let some = i * step..(i * step + bytes.len() / row_bytes);
        values.resize(some.len() * cols, 0.0);
        block.rows(linear, some, values);
        let seen = scan(values);
        if seen.check(store.spec()).is_ok() {
            match (&guess, store.blocks()) {
                (Some(guess), Some(blocks)) => guess.encode(blocks, matrix(values, cols), importance, bytes),
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
