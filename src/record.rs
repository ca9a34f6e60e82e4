//! What a run did and measured: the machine-readable truth behind every summary. Written as JSON, and read back.
//!
//! | file | what it answers |
//! |---|---|
//! | `convert` | one conversion: its recipe, tensors, passes, files |
//! | `pass` | what a pass did in one place |
//! | `calibrate`, `eval`, `bench` | one run of each |
//! | `figures` | figures with errors, quantiles, spreads |
//!
//! Knows recipes and nothing else: whoever renders records needs no model.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::paths::directory_of;
use crate::{Error, Result};

mod bench;
mod calibrate;
mod convert;
mod eval;
mod figures;
mod pass;

pub use bench::BenchRecord;
pub use calibrate::CalibrateRecord;
pub use convert::{FileRecord, ImportanceRecord, RunRecord, TensorRecord, TooSmall};
pub use eval::{Divergence, EvalRecord};
pub use figures::{Measured, Quantiles, Spread};
pub use pass::{Facts, PassRecord};

/// Version of the layout of all records; a field that changes its meaning raises it.
pub const SCHEMA: u32 = 2;

/// A record of any kind.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Record {
    /// Of a conversion.
    Convert(Box<RunRecord>),
    /// Of a calibration.
    Calibrate(Box<CalibrateRecord>),
    /// Of an evaluation.
    Eval(Box<EvalRecord>),
    /// Of a timing.
    Bench(Box<BenchRecord>),
}

impl Record {
    /// Writes it as JSON. Relative paths of its recipe become relative to where the file is, so that it can be run
    /// again.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut record = self.clone();
        if let Record::Convert(run) = &mut record {
            run.recipe = run.recipe.seen_from(directory_of(path))?;
        }
        let text = serde_json::to_string_pretty(&record).expect("records have string keys");
        fs::write(path, text + "\n").map_err(|e| Error::io(path, "write", e))
    }

    /// Reads one.
    ///
    /// # Errors
    /// If the file cannot be read or holds no record: line and column, or the field that is missing.
    pub fn load(path: &Path) -> Result<Record> {
        let text = fs::read_to_string(path).map_err(|e| Error::io(path, "read", e))?;
        serde_json::from_str(&text).map_err(|e| Error::malformed(path, format!("not a record: {e}")))
    }
}

/// What ran, and the layout of its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Name and version of the program.
    pub tool: String,
}

impl Tool {
    /// This program.
    pub fn this() -> Tool {
        Tool { schema: SCHEMA, tool: concat!("aurora-quant ", env!("CARGO_PKG_VERSION")).to_owned() }
    }
}
