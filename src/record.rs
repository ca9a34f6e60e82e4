//! What a run did and measured: the machine-readable source of every summary. Written as JSON, and read back.
//!
//! | file | what it answers |
//! |---|---|
//! | `convert` | one conversion: its recipe, tensors, passes, files |
//! | `pass` | what a pass did in one place |
//! | `calibrate`, `eval`, `bench` | one run of each |
//! | `figures` | figures with errors, quantiles, spreads |
//!
//! Depends on recipes only, so code that renders records needs no model.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Fault;
use crate::paths::directory_of;
use crate::{Error, Result, files};

mod bench;
mod calibrate;
mod convert;
mod eval;
mod figures;
mod pass;

pub use bench::BenchRecord;
pub use calibrate::CalibrateRecord;
pub use convert::{FileRecord, ImportanceRecord, RunRecord, SparseRecord, TensorRecord, TooSmall};
pub use eval::{Divergence, EvalRecord};
pub use figures::{Measured, Quantiles, Spread};
pub use pass::{Facts, PassRecord};

/// Version of the layout of all records. It goes up when a field changes its meaning.
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
    /// again. `replace`: whether a file that is there may be replaced.
    ///
    /// # Errors
    /// If the file cannot be written; then what was there stays.
    pub fn save(&self, path: &Path, replace: bool) -> Result<()> {
        let mut record = self.clone();
        if let Record::Convert(run) = &mut record {
            run.recipe = run.recipe.seen_from(directory_of(path))?;
        }
        let text = serde_json::to_string_pretty(&record).expect("records have string keys");
        files::write(path, "record", replace, (text + "\n").as_bytes())
    }

    /// Reads a record.
    ///
    /// # Errors
    /// If the file cannot be read or is not a record; the error has line and column, or the missing field.
    pub fn load(path: &Path) -> Result<Record> {
        let text = fs::read_to_string(path).map_err(|e| Error::io(path, "read", e))?;
        serde_json::from_str(&text).map_err(|e| Fault::json("not a record", e).of(path))
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
