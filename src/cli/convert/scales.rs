//! What scaled inputs gained, in words.

use std::collections::BTreeMap;

use crate::record::ScaleRecord;

/// A line for the whole, one for each block, one for each reason why an input has no scales.
pub fn lines(records: &[ScaleRecord]) -> Vec<String> {
    if records.is_empty() {
        return Vec::new();
    }
    let scaled = records.iter().filter(|r| r.exponents.is_some()).count();
    let of = match records.iter().find_map(|r| r.judged_by.as_deref()) {
        None => "error of the attention's or MLP's output".to_owned(),
        Some(what) => format!("error by {what}"),
    };
    let mut lines = vec![format!("scaled inputs: {scaled} of {}; {of}, of that without scales:", records.len())];
    let mut blocks: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for record in records {
        let first = record.readers.first().map_or("", String::as_str);
        match (&record.note, record.block, record.loss_before, record.loss) {
            (Some(note), ..) => reasons.entry(note).or_default().push(first),
            (None, Some(block), Some(before), Some(loss)) => {
                let ratio = if before > 0.0 { loss / before } else { 1.0 };
                blocks.entry(block).or_default().push(format!("{} {ratio:.2}x", short(first)));
            }
            _ => {}
        }
    }
    lines.extend(blocks.iter().map(|(block, sites)| format!("  block {block}: {}", sites.join(", "))));
    lines.extend(reasons.iter().map(|(why, names)| format!("  not scaled: {} ({why})", names.join(", "))));
    lines
}

/// `attn_q` of `blk.0.attn_q.weight`.
fn short(name: &str) -> &str {
    name.trim_end_matches(".weight").rsplit('.').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_and_every_reason_has_its_line() {
        let record = |block, name: &str, loss: Option<f64>| ScaleRecord {
            loss_before: loss.map(|_| 2.0),
            loss,
            exponents: loss.filter(|&loss| loss < 2.0).map(|_| [0.5, 0.0]),
            ..ScaleRecord::new(Some(block), vec![name.to_owned()], None)
        };
        let refused = ScaleRecord { note: Some("a norm".to_owned()), ..record(1, "blk.1.ffn_down.weight", None) };
        let all = [record(0, "blk.0.attn_q.weight", Some(1.0)), record(1, "blk.1.attn_q.weight", Some(2.0)), refused];
        let lines = lines(&all);
        assert!(lines[0].contains("1 of 3"), "{lines:?}");
        assert_eq!(
            lines[1..],
            ["  block 0: attn_q 0.50x", "  block 1: attn_q 1.00x", "  not scaled: blk.1.ffn_down.weight (a norm)"]
        );
    }
}
