//! Summary lines for methods that use calibration inputs: what they gained, and every matrix left to rounding to
//! nearest, with the reason.

use std::collections::{BTreeMap, BTreeSet};

use crate::passes::gptq::{DEAD_CHANNELS, RETRIES, ROWS_RTN};
use crate::record::PassRecord;

/// Maximum number of names in a line.
const NAMES: usize = 6;

/// The lines, or none if no method used inputs. `grids`: the tensors with a block format.
pub fn lines(method: &str, records: &[PassRecord], grids: &[&str]) -> Vec<String> {
    let linears: Vec<&PassRecord> = records.iter().filter(|r| r.pass != "awq").collect();
    if linears.is_empty() {
        return Vec::new();
    }
    let mut lines = Vec::new();
    let solved: Vec<&&PassRecord> = linears.iter().filter(|l| l.after.is_some()).collect();
    let ratio = mean_ratio(solved.iter().copied().copied());
    let ratio =
        ratio.map(|r| format!("; loss {r:.2}x that of rounding to nearest (geometric mean)")).unwrap_or_default();
    lines.push(format!("{method}: {} of {} matrices solved{ratio}", solved.len(), all(&linears, grids)));
    let mut left: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for linear in linears.iter().filter(|l| l.after.is_none()) {
        let why = linear.note.clone().unwrap_or_else(|| "left out by the method".to_owned());
        left.entry(why).or_default().push(name(linear));
    }
    let seen: BTreeSet<&str> = linears.iter().map(|l| l.tensors[0].as_str()).collect();
    for tensor in grids.iter().filter(|name| !seen.contains(*name)) {
        left.entry("looked up by row, not multiplied".to_owned()).or_default().push((*tensor).to_owned());
    }
    for (why, names) in left {
        lines.push(format!("rounded to nearest: {} ({why})", list(&names)));
    }
    let rows: u64 = linears.iter().map(|l| l.count(ROWS_RTN)).sum();
    if rows > 0 {
        let names: Vec<String> = linears.iter().filter(|l| l.count(ROWS_RTN) > 0).map(|l| name(l)).collect();
        lines.push(format!("rounded to nearest: {rows} rows of {} (the method's codes were worse)", list(&names)));
    }
    for (what, found) in [
        ("damping raised", |l: &PassRecord| l.count(RETRIES) > 0),
        ("fewer calibration tokens than input channels", |l: &PassRecord| l.after.is_some() && l.note.is_some()),
        ("input channels that are always zero", |l: &PassRecord| l.count(DEAD_CHANNELS) > 0),
    ] as [(&str, fn(&PassRecord) -> bool); 3]
    {
        let names: Vec<String> = linears.iter().filter(|l| found(l)).map(|l| name(l)).collect();
        if !names.is_empty() {
            lines.push(format!("{what}: {}", list(&names)));
        }
    }
    lines
}

/// The geometric mean of what losses became relative to what they were, where both are known.
pub(super) fn mean_ratio<'r>(records: impl Iterator<Item = &'r PassRecord>) -> Option<f64> {
    let ratios = records.filter_map(PassRecord::ratio).filter(|ratio| *ratio > 0.0);
    let (sum, n) = ratios.fold((0.0, 0), |(sum, n), ratio| (sum + ratio.ln(), n + 1));
    (n > 0).then(|| f64::exp(sum / f64::from(n)))
}

/// Number of matrices on a grid, counting each expert's.
fn all(linears: &[&PassRecord], grids: &[&str]) -> usize {
    let seen: BTreeSet<&str> = linears.iter().map(|l| l.tensors[0].as_str()).collect();
    linears.len() + grids.iter().filter(|name| !seen.contains(*name)).count()
}

pub(super) fn name(linear: &PassRecord) -> String {
    match linear.expert {
        None => linear.tensors[0].clone(),
        Some(expert) => format!("{} expert {expert}", linear.tensors[0]),
    }
}

pub(super) fn list(names: &[String]) -> String {
    let some = names[..names.len().min(NAMES)].join(", ");
    match names.len() - names.len().min(NAMES) {
        0 => some,
        more => format!("{some} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_matrix_is_counted_and_what_is_left_is_named_with_the_reason() {
        assert!(lines("gptq", &[], &["token_embd.weight"]).is_empty());
        let record = |pass: &str, name: &str| PassRecord::new(pass, None, vec![name.to_owned()]);
        let good = PassRecord { after: Some(0.25), before: Some(1.0), ..record("gptq", "a") };
        let idle =
            |expert| PassRecord { note: Some("no token".to_owned()), expert: Some(expert), ..record("rtn", "e") };
        let records: Vec<PassRecord> = [good].into_iter().chain((0..8).map(idle)).collect();
        let found = lines("gptq", &records, &["a", "e", "token_embd.weight"]);
        assert_eq!(
            found,
            [
                "gptq: 1 of 10 matrices solved; loss 0.25x that of rounding to nearest (geometric mean)",
                "rounded to nearest: token_embd.weight (looked up by row, not multiplied)",
                "rounded to nearest: e expert 0, e expert 1, e expert 2, e expert 3, e expert 4, e expert 5 and 2 more \
                 (no token)",
            ]
        );
    }
}
