//! Summary lines for what was removed: which layers, and what new values gained.

use super::solved::mean_ratio;
use crate::pipeline::remove::{GONE, NAME};
use crate::record::PassRecord;

/// Whether a record is one of a removal.
pub(super) fn is_one(record: &PassRecord) -> bool {
    record.pass == NAME
}

fn of(record: &PassRecord, gone: &str) -> bool {
    record.facts.get(GONE).is_some_and(|found| found == gone)
}

/// The lines, or none if nothing was removed.
pub(super) fn lines(all: &[PassRecord]) -> Vec<String> {
    let mut lines = Vec::new();
    let layers = all.iter().filter(|record| of(record, "layer")).map(|record| {
        let layer = record.block.map_or_else(String::new, |block| block.to_string());
        match record.facts.get("kl").and_then(serde_json::Value::as_f64) {
            Some(kl) => format!("{layer} (KL divergence {kl:.4})"),
            None => layer,
        }
    });
    let layers: Vec<String> = layers.collect();
    if !layers.is_empty() {
        lines.push(format!("removed layers: {}", layers.join(", ")));
    }
    for (gone, what) in [("heads", "heads"), ("channels", "channels of MLPs"), ("experts", "experts")] {
        let places: Vec<&PassRecord> = all.iter().filter(|record| of(record, gone)).collect();
        if !places.is_empty() {
            let gain = mean_ratio(places.iter().copied()).filter(|ratio| *ratio < 1.0);
            let gain = gain.map(|r| format!("; loss {r:.2}x that without new values (geometric mean)"));
            lines.push(format!("removed {what} of {} matrices{}", places.len(), gain.unwrap_or_default()));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_named_and_gains_are_averaged() {
        let record = |gone: &str, block: usize| {
            let mut record = PassRecord::new(NAME, Some(block), vec![format!("blk.{block}")]);
            record.fact(GONE, gone);
            record
        };
        let mut layer = record("layer", 3);
        layer.fact("kl", 0.25);
        let halved = PassRecord { before: Some(2.0), after: Some(1.0), ..record("channels", 0) };
        let found = lines(&[record("layer", 1), layer, halved.clone(), halved]);
        assert_eq!(
            found,
            [
                "removed layers: 1, 3 (KL divergence 0.2500)",
                "removed channels of MLPs of 2 matrices; loss 0.50x that without new values (geometric mean)"
            ]
        );
        assert!(lines(&[]).is_empty());
    }
}
