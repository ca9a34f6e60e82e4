//! GPTQ (Frantar et al. 2022) on whatever grid the plan gives each matrix; the mathematics is
//! [`aurora_quantizers::gptq`]'s. What it leaves alone is rounded to nearest afterwards, and says so in the record.

use std::time::Instant;

use aurora_quantizers::gptq::{self, Hessian, Options, Order};
use aurora_quantizers::{SiteStats, matrix};

use super::{BlockState, Log, Pass, Settings, StatsKind};
use crate::Result;
use crate::model::{Reader, Role};
use crate::record::LinearRecord;

/// The pass.
pub struct Gptq {
    damp: f64,
    options: Options,
}

impl Gptq {
    /// With the user's settings.
    pub fn new(settings: &Settings) -> Self {
        let order = if settings.act_order { Order::Static } else { Order::Natural };
        Gptq { damp: settings.damp, options: Options { order, sweeps: settings.refine } }
    }
}

impl Pass for Gptq {
    fn needs(&self) -> StatsKind {
        StatsKind::Gram
    }

    fn apply(&self, block: &mut BlockState<'_>, log: &mut dyn Log) -> Result<()> {
        for site in 0..block.sites().len() {
            let experts: Vec<Option<usize>> = block.sites()[site].stats.iter().map(|(e, _)| *e).collect();
            for expert in experts {
                // One Hessian for all readers of the same tokens.
                let readers = block.sites()[site].site.readers.iter().copied();
                let on_grids = |r: &Reader| r.expert == expert && is_on_a_grid(block, *r);
                let (tables, readers): (Vec<Reader>, Vec<Reader>) =
                    readers.filter(on_grids).partition(|r| block.graph().param(r.weight).role == Role::Embedding);
                let tokens = block.sites()[site].seen_by(expert).tokens();
                // Inputs of its use as a matrix say nothing of that by row.
                tables.into_iter().for_each(|table| leave(block, table, tokens, "also looked up by row", log));
                if readers.is_empty() {
                    continue;
                }
                let hessian = self.hessian(block.sites()[site].seen_by(expert));
                for reader in readers {
                    match &hessian {
                        Ok(hessian) => self.linear(block, reader, tokens, hessian, log)?,
                        Err(why) => leave(block, reader, tokens, why, log),
                    }
                }
            }
        }
        Ok(())
    }
}

/// Whether the matrix gets codes, and has none yet.
fn is_on_a_grid(block: &BlockState<'_>, reader: Reader) -> bool {
    block.store(reader.weight).blocks().is_some() && block.codes(reader).is_none()
}

/// Says why a matrix is left for rounding to nearest.
fn leave(block: &BlockState<'_>, reader: Reader, tokens: u64, why: &str, log: &mut dyn Log) {
    let mut record = LinearRecord::new(&block.graph().param(reader.weight).name, reader.expert, tokens);
    record.method = "rtn".to_owned();
    record.note = Some(why.to_owned());
    log.linear(record);
}

impl Gptq {
    /// The Hessian of what some readers saw and its shrinkage, or why there is none.
    fn hessian(&self, stats: &SiteStats) -> std::result::Result<(Hessian, f64), String> {
        let Some(gram) = stats.gram().filter(|_| stats.tokens() > 0) else {
            return Err("no calibration token came to it".to_owned());
        };
        let mut h = gram.to_square(1.0 / stats.tokens() as f64);
        let shrinkage = gptq::shrink(h.view_mut(), stats.tokens());
        if shrinkage == 1.0 {
            return Err(format!("{} tokens are too few for {} input channels", stats.tokens(), stats.width()));
        }
        let hessian = Hessian::prepare(h.view(), self.damp, self.options.order).map_err(|e| e.to_string())?;
        Ok((hessian, shrinkage))
    }

    fn linear(
        &self,
        block: &mut BlockState<'_>,
        reader: Reader,
        tokens: u64,
        (hessian, shrinkage): &(Hessian, f64),
        log: &mut dyn Log,
    ) -> Result<()> {
        let started = Instant::now();
        let name = block.graph().param(reader.weight).name.clone();
        log.begin(&name)?;
        let mut record = LinearRecord::new(&name, reader.expert, tokens);
        let store = block.store(reader.weight);
        let (rows, cols) = block.shape(reader);
        let w = block.weights(reader);
        let mut bytes =
            vec![0; store.spec().bytes_for(cols).expect("the plan chose a format that divides rows") * rows];
        let grid = store.blocks().expect("only such matrices come here");
        let solved = gptq::solve(grid, matrix(&w, cols), hessian, self.options, &mut bytes);
        let solved = solved.map_err(|e| block.error(reader, &e))?;
        let (total, prepared) = (solved.total(), hessian.prepared());
        record.method = "gptq".to_owned();
        record.loss = Some(total.solved);
        record.loss_rtn = Some(total.nearest);
        record.damping = Some(prepared.damping);
        record.shrinkage = Some(*shrinkage);
        record.retries = prepared.retries;
        record.dead_channels = prepared.dead;
        record.rank_missing = prepared.explained;
        record.rows_rtn = solved.kept_nearest;
        if tokens < cols as u64 {
            record.note = Some(format!("{tokens} tokens for {cols} channels"));
        }
        record.seconds = started.elapsed().as_secs_f64();
        block.set_codes(reader, bytes);
        log.linear(record);
        Ok(())
    }
}
