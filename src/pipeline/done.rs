//! The results for one block, before they are written.

use std::collections::BTreeMap;

use aurora_quantizers::Fidelity;

use crate::model::ParamId;
use crate::record::PassRecord;
use crate::weights::Edits;

/// The results for one block, or for the head.
#[derive(Debug, Default, PartialEq)]
pub struct Done {
    /// Bytes of whole parameters.
    pub encoded: BTreeMap<ParamId, Vec<u8>>,
    /// What is left of the weights of those parameters, if it was looked at.
    pub fidelity: BTreeMap<ParamId, Fidelity>,
    /// Edits of parameters that are not encoded.
    pub edits: Edits,
    /// What the passes did.
    pub records: Vec<PassRecord>,
}
