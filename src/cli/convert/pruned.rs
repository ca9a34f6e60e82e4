//! Summary lines for pruning: how much is zero, what new values gained, and what was left whole.

use std::collections::BTreeMap;

use super::solved::{list, mean_ratio, name};
use crate::passes::prune::{EXCHANGED, WEIGHTS, ZEROS};
use crate::record::PassRecord;

/// Whether a record is one of pruning.
pub(super) fn is_one(record: &PassRecord) -> bool {
    crate::passes::PASSES.iter().any(|row| row.prunes && row.name == record.pass)
}

/// The lines, or none if nothing was pruned.
pub(super) fn lines(all: &[PassRecord]) -> Vec<String> {
    let Some(first) = all.first() else { return Vec::new() };
    let sum = |fact: &str| all.iter().map(|r| r.count(fact)).sum::<u64>();
    let (zeros, weights) = (sum(ZEROS), sum(WEIGHTS));
    let matrices = all.iter().filter(|r| r.count(WEIGHTS) > 0).count();
    let share = 100.0 * zeros as f64 / weights.max(1) as f64;
    let what = match sum(EXCHANGED) {
        0 => "that of the same mask without new values".to_owned(),
        pairs => format!("what it was before {pairs} pairs of weights were exchanged"),
    };
    let gain = mean_ratio(all.iter()).map(|r| format!("; loss {r:.2}x {what}"));
    let gain = gain.unwrap_or_default();
    let mut lines = vec![format!(
        "{}: {zeros} of {weights} weights are zero ({share:.2} %; matrices: {matrices}){gain}",
        first.pass
    )];
    let mut left: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for record in all.iter().filter(|r| r.count(WEIGHTS) == 0) {
        left.entry(record.note.as_deref().unwrap_or("not pruned")).or_default().push(name(record));
    }
    lines.extend(left.into_iter().map(|(why, names)| format!("{why}: {}", list(&names))));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_added_up_and_what_stays_whole_is_named() {
        let mut pruned = PassRecord::new("sparsegpt", Some(0), vec!["a".to_owned()]);
        pruned.fact(ZEROS, 50);
        pruned.fact(WEIGHTS, 100);
        (pruned.before, pruned.after) = (Some(4.0), Some(1.0));
        let whole = PassRecord {
            note: Some("not pruned: no calibration token reached it".to_owned()),
            expert: Some(3),
            ..PassRecord::new("sparsegpt", Some(0), vec!["b".to_owned()])
        };
        assert_eq!(
            lines(&[pruned, whole]),
            [
                "sparsegpt: 50 of 100 weights are zero (50.00 %; matrices: 1); loss 0.25x that of the same mask \
                 without new values",
                "not pruned: no calibration token reached it: b expert 3",
            ]
        );
        assert!(lines(&[]).is_empty() && !is_one(&PassRecord::new("gptq", Some(0), Vec::new())));
    }
}
