//! What a conversion asks of a format, and the refusal of what a format does not take.
//!
//! Errors name a setting in backquotes; a command line puts its own spelling there.

use aurora_quantizers::Store;
use regex::Regex;

use crate::plan::{FileType, Rules};
use crate::recipe::Settings;

/// The type that carries the integers of a quantised checkpoint over.
pub const KEEP: &str = "keep";

/// What is asked of the output. Each format takes a part of the settings and refuses the rest.
#[derive(Clone, Default)]
pub struct Request {
    /// Name of the matrices' type: a [file type](crate::plan::FILE_TYPES), or [`KEEP`].
    pub file_type: Option<String>,
    /// Whether every matrix has that type, without the exceptions that it makes.
    pub pure: bool,
    /// Type of the output matrix.
    pub output_type: Option<&'static dyn Store>,
    /// Type of the token embedding.
    pub embedding_type: Option<&'static dyn Store>,
    /// Types of tensors by name; the first match counts.
    pub tensor_types: Vec<(Regex, &'static dyn Store)>,
    /// Whether parts of the model are removed, so that its tensors are not the checkpoint's.
    pub remove: bool,
    /// Name of the pre-tokenizer, where it is not recognised.
    pub pre: Option<String>,
    /// What is set of the format's [own options](super::About::options), by name.
    pub options: Settings,
    /// How codes will be chosen.
    pub choosing: Choosing,
}

/// What chooses codes, besides plain rounding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Choosing {
    /// A method that runs the model chooses codes.
    pub method: bool,
    /// Weights are pruned; whether codes are chosen for what stays.
    pub pruned: Option<bool>,
    /// Importances from a file.
    pub imatrix: bool,
    /// Importances made on the way.
    pub calibrate: bool,
    /// Scales by ggml's formula.
    pub reference: bool,
}

impl Request {
    /// Names of the settings that are given, the format's own options aside.
    pub fn given(&self) -> Vec<&'static str> {
        let all = [
            ("type", self.file_type.is_some()),
            ("pure", self.pure),
            ("tensor_types", !self.tensor_types.is_empty()),
            ("output_type", self.output_type.is_some()),
            ("embedding_type", self.embedding_type.is_some()),
            ("pre", self.pre.is_some()),
            ("remove", self.remove),
        ];
        all.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
    }

    /// Rules of the plan for a file type.
    pub(super) fn rules(&self, file_type: &'static FileType) -> Rules {
        Rules {
            file_type,
            pure: self.pure,
            calibrated: self.choosing.method || self.choosing.imatrix || self.choosing.calibrate,
            output: self.output_type,
            embedding: self.embedding_type,
            overrides: self.tensor_types.clone(),
        }
    }
}
