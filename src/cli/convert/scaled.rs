//! Summary lines for AWQ: what scaling the inputs gained.

use std::collections::BTreeMap;

use crate::passes::awq::{EXPONENTS, JUDGED_BY};
use crate::record::PassRecord;

/// One line for the total, one per block, and one per reason why an input was not scaled.
pub fn lines(records: &[PassRecord]) -> Vec<String> {
    let records: Vec<&PassRecord> = records.iter().filter(|r| r.pass == "awq").collect();
    if records.is_empty() {
        return Vec::new();
    }
    let scaled = records.iter().filter(|r| r.facts.contains_key(EXPONENTS)).count();
    let of = match records.iter().find_map(|r| r.facts.get(JUDGED_BY)?.as_str()) {
        None => "error of the attention or MLP output".to_owned(),
        Some(what) => format!("error by {what}"),
    };
    let mut lines = vec![format!("scaled inputs: {scaled} of {}; {of}, relative to no scaling:", records.len())];
    let mut blocks: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for record in records {
        let first = record.tensors.first().map_or("", String::as_str);
        match (&record.note, record.block) {
            (Some(note), _) => reasons.entry(note).or_default().push(first),
            (None, Some(block)) if record.after.is_some() => {
                let ratio = record.ratio().unwrap_or(1.0);
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
        let record = |block, name: &str, loss: Option<f64>| {
            let mut record = PassRecord::new("awq", Some(block), vec![name.to_owned()]);
            (record.before, record.after) = (loss.map(|_| 2.0), loss);
            if loss.is_some_and(|loss| loss < 2.0) {
                record.fact(EXPONENTS, [0.5, 0.0]);
            }
            record
        };
        let refused = PassRecord { note: Some("a norm".to_owned()), ..record(1, "blk.1.ffn_down.weight", None) };
        let all = [record(0, "blk.0.attn_q.weight", Some(1.0)), record(1, "blk.1.attn_q.weight", Some(2.0)), refused];
        let lines = lines(&all);
        assert!(lines[0].contains("1 of 3"), "{lines:?}");
        assert_eq!(
            lines[1..],
            ["  block 0: attn_q 0.50x", "  block 1: attn_q 1.00x", "  not scaled: blk.1.ffn_down.weight (a norm)"]
        );
    }
}
