//! What the summary of a conversion says about a method that looks at inputs: what it gained, and every matrix that it left to
//! rounding to nearest, with the reason.

use std::collections::{BTreeMap, BTreeSet};

use crate::record::{LinearRecord, RunRecord};

/// Names that a line lists at most.
const NAMES: usize = 6;

/// The lines; none if no method looked at inputs. `grids`: the tensors that have a block type.
pub fn lines(record: &RunRecord, grids: &[&str]) -> Vec<String> {
    let linears = &record.linears;
    if linears.is_empty() {
        return Vec::new();
    }
    let mut lines = Vec::new();
    let solved: Vec<&LinearRecord> = linears.iter().filter(|l| l.loss.is_some()).collect();
    let (ours, nearest) = solved.iter().fold((0.0, 0), |(sum, n), l| match (l.loss, l.loss_rtn) {
        (Some(loss), Some(rtn)) if loss > 0.0 && rtn > 0.0 => (sum + (loss / rtn).ln(), n + 1),
        _ => (sum, n),
    });
    let ratio = if nearest > 0 {
        format!(", their loss {:.2}x that of rounding to nearest (geometric mean)", f64::exp(ours / f64::from(nearest)))
    } else {
        String::new()
    };
    lines.push(format!("{}: {} of {} matrices solved{ratio}", record.method, solved.len(), all(linears, grids)));
    let mut left: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for linear in linears.iter().filter(|l| l.loss.is_none()) {
        let why = linear.note.clone().unwrap_or_else(|| "by the method's choice".to_owned());
        left.entry(why).or_default().push(name(linear));
    }
    let seen: BTreeSet<&str> = linears.iter().map(|l| l.tensor.as_str()).collect();
    for tensor in grids.iter().filter(|name| !seen.contains(*name)) {
        left.entry("looked up by row, not multiplied".to_owned()).or_default().push((*tensor).to_owned());
    }
    for (why, names) in left {
        lines.push(format!("rounded to nearest: {} ({why})", list(&names)));
    }
    let rows: usize = linears.iter().map(|l| l.rows_rtn).sum();
    if rows > 0 {
        let names: Vec<String> = linears.iter().filter(|l| l.rows_rtn > 0).map(name).collect();
        lines.push(format!("rounded to nearest: {rows} rows of {} (the method's codes were worse)", list(&names)));
    }
    for (what, found) in [
        ("damping was raised", |l: &LinearRecord| l.retries > 0),
        ("fewer calibration tokens than input channels", |l: &LinearRecord| l.loss.is_some() && l.note.is_some()),
        ("input channels that are always zero", |l: &LinearRecord| l.dead_channels > 0),
    ] as [(&str, fn(&LinearRecord) -> bool); 3]
    {
        let names: Vec<String> = linears.iter().filter(|l| found(l)).map(name).collect();
        if !names.is_empty() {
            lines.push(format!("{what}: {}", list(&names)));
        }
    }
    lines
}

/// Matrices on a grid, every expert's counted.
fn all(linears: &[LinearRecord], grids: &[&str]) -> usize {
    let seen: BTreeSet<&str> = linears.iter().map(|l| l.tensor.as_str()).collect();
    linears.len() + grids.iter().filter(|name| !seen.contains(*name)).count()
}

fn name(linear: &LinearRecord) -> String {
    match linear.expert {
        None => linear.tensor.clone(),
        Some(expert) => format!("{} expert {expert}", linear.tensor),
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

    fn record(linears: Vec<LinearRecord>) -> RunRecord {
        RunRecord {
            schema: 1,
            tool: String::new(),
            input: String::new(),
            architecture: String::new(),
            output: String::new(),
            dry_run: false,
            method: "gptq".to_owned(),
            file_type: String::new(),
            weights: 0,
            file_bytes: 0,
            bits_per_weight: 0.0,
            fallbacks: 0,
            threads: 1,
            seconds: 0.0,
            peak_memory_bytes: None,
            notes: Vec::new(),
            importance: None,
            tensors: Vec::new(),
            linears,
            scales: Vec::new(),
        }
    }

    #[test]
    fn every_matrix_is_counted_and_what_is_left_is_named_with_the_reason() {
        assert!(lines(&record(Vec::new()), &["token_embd.weight"]).is_empty());
        let good = LinearRecord { loss: Some(0.25), loss_rtn: Some(1.0), ..LinearRecord::new("a", None, 9) };
        let idle =
            |expert| LinearRecord { note: Some("no token".to_owned()), ..LinearRecord::new("e", Some(expert), 0) };
        let linears = [good].into_iter().chain((0..8).map(idle)).collect();
        let found = lines(&record(linears), &["a", "e", "token_embd.weight"]);
        assert_eq!(
            found,
            [
                "gptq: 1 of 10 matrices solved, their loss 0.25x that of rounding to nearest (geometric mean)",
                "rounded to nearest: token_embd.weight (looked up by row, not multiplied)",
                "rounded to nearest: e expert 0, e expert 1, e expert 2, e expert 3, e expert 4, e expert 5 and 2 more \
                 (no token)",
            ]
        );
    }
}
