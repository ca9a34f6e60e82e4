//! A pass for tests that looks only at weights: it scales every matrix. It is one file and one row of the table.

use super::{BlockState, Log, Needs, Pass, PassRow, StatsKind};
use crate::Result;
use crate::options::{Opt, OptKind};
use crate::record::PassRecord;
use crate::weights::{Edit, Scale};

/// Row of the table.
pub const ROW: PassRow = PassRow {
    name: "toy",
    about: "multiplies every matrix by a factor",
    options: &[Opt { name: "toy_factor", about: "The factor", kind: OptKind::Number(0.0, 8.0), default: "2" }],
    solves: false,
    for_codes: false,
    compensates: false,
    prunes: false,
    make: |options, _| Box::new(Toy { factor: options.number("toy_factor") as f32 }),
};

struct Toy {
    factor: f32,
}

impl Pass for Toy {
    fn needs(&self) -> Needs {
        StatsKind::None.into()
    }

    fn apply(&self, block: &mut BlockState<'_>, log: &mut dyn Log) -> Result<()> {
        for site in 0..block.sites().len() {
            for reader in block.sites()[site].site.readers.clone() {
                let param = block.graph().param(reader.weight);
                log.begin(&param.name)?;
                let factors = vec![self.factor; block.shape(reader).1];
                block.edit(reader, Edit::Scale(Scale::of_cols(factors)))?;
                log.done(PassRecord::new(ROW.name, param.block, vec![param.name.clone()]));
            }
        }
        Ok(())
    }
}
