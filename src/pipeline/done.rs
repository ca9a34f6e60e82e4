//! What one block came to, before it is written.

use std::collections::BTreeMap;

use aurora_quantizers::Fidelity;

use crate::model::ParamId;
use crate::record::PassRecord;
use crate::weights::Edits;

/// What one block (or the head) came to.
#[derive(Debug, Default, PartialEq)]
pub struct Done {
    /// Bytes of whole parameters.
    pub encoded: BTreeMap<ParamId, Vec<u8>>,
    /// What is left of the weights of those parameters, if it was looked at.
    pub fidelity: BTreeMap<ParamId, Fidelity>,
    /// Edits of what is not encoded.
    pub edits: Edits,
    /// What the passes did.
    pub records: Vec<PassRecord>,
}
