//! GPTQ (Frantar et al. 2022) on whatever grid the plan gives each matrix. The mathematics is in
//! [`aurora_quantizers::gptq`]. Whatever it leaves alone is rounded to nearest afterwards, and the record says so.

use std::time::Instant;

use aurora_quantizers::SiteStats;
use aurora_quantizers::gptq::{self, Hessian, Order};

use super::hessian::{factored, products};
use super::{BlockState, Log, Needs, Pass, PassRow, RTN, StatsKind};
use crate::Result;
use crate::model::{Reader, Role};
use crate::options::{Opt, OptKind};
use crate::record::PassRecord;

/// Row of the table.
pub const ROW: PassRow = PassRow {
    name: "gptq",
    about: "chooses codes so that the errors of a row cancel out, by the Hessian of the inputs",
    options: &[DAMP, ACT_ORDER, REFINE],
    solves: true,
    for_codes: true,
    compensates: true,
    prunes: false,
    make: |options, _| {
        let (order, sweeps) = (options.word(ACT_ORDER.name, &ORDERS), options.count(REFINE.name));
        Box::new(Gptq { damp: options.number(DAMP.name), options: gptq::SolveOptions { order, sweeps } })
    },
};

const DAMP: Opt = Opt {
    name: "damp",
    about: "GPTQ: damping, as a share of the Hessian's mean diagonal; raised until the factorisation succeeds, which \
            the summary reports",
    kind: OptKind::Number(0.0, 1.0),
    default: "0.01",
};

const ACT_ORDER: Opt = Opt {
    name: "act_order",
    about: "GPTQ: order of the columns. static: by descending activation, with scales fixed beforehand; none: left to \
            right, with scales refitted on the way",
    kind: OptKind::Word(&["static", "none"]),
    default: "static",
};

const ORDERS: [(&str, Order); 2] = [("static", Order::Static), ("none", Order::Natural)];

const REFINE: Opt = Opt {
    name: "refine",
    about: "GPTQ: maximum rounds of coordinate descent on the codes after solving",
    kind: OptKind::Count(0, u64::MAX),
    default: "3",
};

/// Fact: how often damping had to be raised.
pub const RETRIES: &str = "retries";
/// Fact: input channels that were always zero.
pub const DEAD_CHANNELS: &str = "dead_channels";
/// Fact: rows left rounded to nearest, because the solved codes were worse.
pub const ROWS_RTN: &str = "rows_rtn";

/// The pass.
struct Gptq {
    damp: f64,
    options: gptq::SolveOptions,
}

impl Pass for Gptq {
    fn needs(&self) -> Needs {
        StatsKind::Gram.into()
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
                // The inputs it is multiplied with say nothing about lookups by row.
                tables.into_iter().for_each(|table| leave(block, table, tokens, "also looked up by row", log));
                if readers.is_empty() {
                    continue;
                }
                let hessian = self.hessian(block.sites()[site].seen_by(expert));
                for reader in readers {
                    if let Some(bytes) = block.stored(reader) {
                        block.set_codes(reader, bytes);
                        leave(block, reader, tokens, "has its type already, and is copied", log);
                        continue;
                    }
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

/// Whether the matrix is to get codes and has none yet.
fn is_on_a_grid(block: &BlockState<'_>, reader: Reader) -> bool {
    block.store(reader.weight).blocks().is_some() && block.codes(reader).is_none()
}

fn record(block: &BlockState<'_>, pass: &str, reader: Reader, tokens: u64) -> PassRecord {
    let param = block.graph().param(reader.weight);
    PassRecord { expert: reader.expert, tokens, ..PassRecord::new(pass, param.block, vec![param.name.clone()]) }
}

/// Records why a matrix is left to rounding to nearest.
fn leave(block: &BlockState<'_>, reader: Reader, tokens: u64, why: &str, log: &mut dyn Log) {
    log.done(PassRecord { note: Some(why.to_owned()), ..record(block, RTN, reader, tokens) });
}

impl Gptq {
    /// The Hessian of what some readers saw and its shrinkage, or why there is none.
    fn hessian(&self, stats: &SiteStats) -> std::result::Result<(Hessian, f64), String> {
        let (h, shrinkage) = products(stats)?;
        Ok((factored(&h, self.damp, self.options.order)?, shrinkage))
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
        let mut record = record(block, ROW.name, reader, tokens);
        log.begin(&record.tensors[0])?;
        let store = block.store(reader.weight);
        let (rows, cols) = block.shape(reader);
        // What was pruned is an error like any other, which the codes of what stays make up for.
        let mask = block.mask(reader);
        let w = if mask.is_some() { block.dense(reader) } else { block.weights(reader) };
        let mut bytes =
            vec![0; store.spec().bytes_for(cols).expect("the plan chose a format that divides rows") * rows];
        let grid = store.blocks().expect("only such matrices come here");
        let solved = gptq::solve(grid, w.view(), mask, hessian, self.options, &mut bytes);
        let solved = solved.map_err(|e| block.error(reader, &e))?;
        let (total, prepared) = (solved.total(), hessian.prepared());
        (record.before, record.after) = (Some(total.nearest), Some(total.solved));
        record.fact("damping", prepared.damping);
        record.fact("shrinkage", shrinkage);
        record.fact(RETRIES, prepared.retries);
        record.fact(DEAD_CHANNELS, prepared.dead);
        record.fact("rank_missing", prepared.explained);
        record.fact(ROWS_RTN, solved.kept_nearest);
        if tokens < cols as u64 {
            record.note = Some(format!("{tokens} tokens for {cols} channels"));
        }
        record.seconds = started.elapsed().as_secs_f64();
        block.set_codes(reader, bytes);
        log.done(record);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Options;
    use super::*;
    use crate::recipe::Settings;

    /// The solver's own defaults are the pass's.
    #[test]
    fn defaults_stand_in_one_place() {
        let options = Options::of("`method` gptq", ROW.options, &Settings::new()).unwrap();
        let (order, sweeps) = (options.word(ACT_ORDER.name, &ORDERS), options.count(REFINE.name));
        assert_eq!(gptq::SolveOptions { order, sweeps }, gptq::SolveOptions::default());
    }
}
