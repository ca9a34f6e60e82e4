//! What is said about matrices that are too small for their type.

use crate::record::{TensorRecord, TooSmall};

/// How one of them is described.
pub(super) fn describe(t: &TensorRecord, TooSmall { error, usual }: TooSmall) -> String {
    format!(
        "is too small for {}, whose scales cannot go below 6e-8: it loses {:.1} %, and would lose {:.1} % if its numbers \
         were larger; use bf16 or f32 for it (`tensor_types`)",
        t.actual,
        100.0 * error,
        100.0 * usual
    )
}

/// What is wrong with one that loses a bit of every weight or more.
pub(super) fn lost(t: &TensorRecord) -> Option<String> {
    t.too_small.filter(|small| small.error >= 2.0 * small.usual).map(|small| describe(t, small))
}

/// A note on all of them; none if there are none.
pub(super) fn note(tensors: &[TensorRecord]) -> Option<String> {
    let small = tensors.iter().filter_map(|t| Some((t, t.too_small?)));
    let (worst, how) = small.clone().max_by(|a, b| a.1.error.total_cmp(&b.1.error))?;
    let others = match small.count() - 1 {
        0 => String::new(),
        1 => "; so is 1 other".to_owned(),
        n => format!("; so are {n} others"),
    };
    Some(format!("{} {}{others}", worst.name, describe(worst, how)))
}
