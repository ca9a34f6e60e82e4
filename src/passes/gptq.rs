//! GPTQ (Frantar et al. 2022) on whatever grid the plan gives each matrix; the mathematics is
//! [`aurora_quantizers::gptq`]'s. What it leaves alone is rounded to nearest afterwards, and says so in the record.

use std::time::Instant;

use aurora_quantizers::gptq::{self, Hessian, Options, Order};
use aurora_quantizers::{NumError, SiteStats};

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
                let solvable = |r: &Reader| r.expert == expert && can_be_solved(block, *r);
                let readers: Vec<Reader> = readers.filter(solvable).collect();
                if readers.is_empty() {
                    continue;
                }
                let hessian = self.hessian(block.sites()[site].seen_by(expert));
                for reader in readers {
                    let tokens = block.sites()[site].seen_by(expert).tokens();
                    self.linear(block, reader, tokens, &hessian, log)?;
                }
            }
        }
        Ok(())
    }
}

/// Matrices on a grid that nothing solved yet. A table that is also looked up by row is left out: the inputs of its use
/// as a matrix say nothing of that.
fn can_be_solved(block: &BlockState<'_>, reader: Reader) -> bool {
    block.format(reader.weight).as_blocks().is_some()
        && block.codes(reader).is_none()
        && block.graph().param(reader.weight).role != Role::Embedding
}

impl Gptq {
    /// The Hessian of what some readers saw, or why there is none.
    fn hessian(&self, stats: &SiteStats) -> std::result::Result<Hessian, NumError> {
        let width = stats.width();
        let Some(gram) = stats.gram().filter(|_| stats.tokens() > 0) else {
            return Err(NumError::NoActivations { channels: width });
        };
        let h = gram.to_square(1.0 / stats.tokens() as f64);
        Hessian::prepare(&h, width, self.damp, self.options.order)
    }

    fn linear(
        &self,
        block: &mut BlockState<'_>,
        reader: Reader,
        tokens: u64,
        hessian: &std::result::Result<Hessian, NumError>,
        log: &mut dyn Log,
    ) -> Result<()> {
        let started = Instant::now();
        let name = block.graph().param(reader.weight).name.clone();
        log.begin(&name)?;
        let mut record = LinearRecord::new(&name, reader.expert, tokens);
        let hessian = match hessian {
            Ok(hessian) => hessian,
            Err(e) => {
                // Left for rounding to nearest, and reported.
                record.method = "rtn".to_owned();
                record.note = Some(e.to_string());
                log.linear(record);
                return Ok(());
            }
        };
        let format = block.format(reader.weight);
        let (rows, cols) = block.shape(reader);
        let w = block.weights(reader);
        let mut bytes =
            vec![0; format.spec().bytes_for(cols).expect("the plan chose a format that divides rows") * rows];
        let grid = format.as_blocks().expect("only such matrices come here");
        let solved = gptq::solve(grid, &w, hessian, self.options, &mut bytes).map_err(|e| block.error(reader, &e))?;
        let (total, prepared) = (solved.total(), hessian.prepared());
        record.method = "gptq".to_owned();
        record.loss = Some(total.solved);
        record.loss_rtn = Some(total.nearest);
        record.damping = Some(prepared.damping);
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
