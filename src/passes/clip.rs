//! Clipping after AWQ: rounds to nearest, with the range of groups clipped where the inputs' correlations make that
//! better. Queries and keys are left out, because their product magnifies what is clipped (as in the AWQ authors'
//! code).

use std::time::Instant;

use aurora_quantizers::{SiteStats, awq, elements, matrix, par, scan};
use ndarray::ArrayView3;
use rayon::prelude::*;

use super::{BlockState, Log, Needs, Pass, PassRow, StatsKind};
use crate::Result;
use crate::model::{Reader, Role};
use crate::record::PassRecord;

/// Row of the table.
pub const ROW: PassRow = PassRow {
    name: "clip",
    about: "rounds to nearest, with the range of groups clipped where that lowers the output error",
    options: &[],
    solves: true,
    for_codes: true,
    compensates: false,
    prunes: false,
    make: |_, _| Box::new(Clip),
};

/// The pass.
struct Clip;

impl Pass for Clip {
    fn needs(&self) -> Needs {
        StatsKind::Gram.into()
    }

    fn apply(&self, block: &mut BlockState<'_>, log: &mut dyn Log) -> Result<()> {
        for site in 0..block.sites().len() {
            for reader in block.sites()[site].site.readers.clone() {
                let param = block.graph().param(reader.weight);
                let left = matches!(param.role, Role::AttnQ | Role::AttnK | Role::AttnQkv | Role::Embedding);
                let stats = block.sites()[site].seen_by(reader.expert);
                if left || block.codes(reader).is_some() || stats.tokens() == 0 {
                    continue;
                }
                let Some(blocks) = block.store(reader.weight).blocks() else { continue };
                let started = Instant::now();
                log.begin(&param.name)?;
                let zeros = vec![0.0; blocks.spec().block];
                let group = blocks.fit(&zeros, &zeros).group_len;
                let (bytes, before, after) = clipped(block, reader, stats, group)?;
                let mut record = PassRecord::new(ROW.name, param.block, vec![param.name.clone()]);
                (record.expert, record.tokens) = (reader.expert, stats.tokens());
                (record.after, record.before) = (Some(after), Some(before));
                record.seconds = started.elapsed().as_secs_f64();
                log.done(record);
                block.set_codes(reader, bytes);
            }
        }
        Ok(())
    }
}

/// The matrix's bytes, and its loss within blocks, rounded plainly and clipped. Chunks depend only on its shape.
fn clipped(block: &BlockState<'_>, reader: Reader, stats: &SiteStats, group: usize) -> Result<(Vec<u8>, f64, f64)> {
    let (rows, cols) = block.shape(reader);
    let store = block.store(reader.weight);
    let row_bytes = store.spec().bytes_for(cols).expect("the plan chose a format that divides the row");
    let weights = block.weights(reader);
    let weights = elements(weights.view());
    scan(weights).check(store.spec()).map_err(|e| block.error(reader, &e))?;
    let gram = stats.gram().expect("asked for");
    let side = store.spec().block;
    let products = (0..cols / side).flat_map(|b| {
        let all = (0..side).flat_map(move |i| (0..side).map(move |j| (b * side + i, b * side + j)));
        all.map(|(i, j)| (gram.get(i, j) / stats.tokens() as f64) as f32)
    });
    let (products, importance): (Vec<f32>, Vec<f32>) = (products.collect(), stats.mean_sq());
    let products = ArrayView3::from_shape((cols / side, side, side), &products).expect("squares of all blocks");
    let step = par::rows_for(par::CHUNK_WEIGHTS / 8, cols);
    let mut bytes = vec![0; rows * row_bytes];
    let chunks = bytes.par_chunks_mut(step * row_bytes).zip(weights.par_chunks(step * cols));
    let losses: Vec<(f64, f64)> =
        chunks.map(|(bytes, rows)| awq::clip(store, matrix(rows, cols), &importance, products, group, bytes)).collect();
    let (before, after) = losses.into_iter().fold((0.0, 0.0), |(a, b), (c, d)| (a + c, b + d));
    Ok((bytes, before, after))
}
