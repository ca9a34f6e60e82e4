//! Where in a file something is wrong, and which tensors.

use std::collections::{HashMap, HashSet};
use std::fmt;

/// Where in a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Within {
    /// Its frame, or the whole of it.
    #[default]
    File,
    /// A key of config.json, of a GGUF header or of another file of settings, as it is spelled there.
    Key(String),
    /// A tensor, by its name there.
    Tensor(String),
}

impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Within::File => Ok(()),
            Within::Key(key) => write!(f, "{key}: "),
            Within::Tensor(tensor) => write!(f, "tensor {tensor}: "),
        }
    }
}

/// What numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantity {
    /// A tensor of the checkpoint.
    Weights,
    /// What the model computes of a text.
    Activations,
    /// Sums over activations, in a file of statistics.
    Statistics,
}

/// A tensor that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorFault {
    /// Its name.
    pub tensor: String,
    /// In which way.
    pub misfit: Misfit,
    /// The same for people, with the tensor's name.
    pub what: String,
}

/// How a tensor does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Misfit {
    /// It is not there.
    Missing,
    /// It has another shape; outermost dimension first.
    Shape {
        /// The shape that it has.
        found: Vec<usize>,
        /// The shape that is needed.
        needed: Vec<usize>,
    },
    /// It holds another kind of numbers than are needed, or than are read.
    Type {
        /// The type's name.
        found: String,
    },
    /// Nothing is known that it could be.
    Unexpected,
}

impl fmt::Display for TensorFault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// At most so many faults are listed; the error holds all.
const LISTED: usize = 200;

/// As many of one kind are listed one by one.
const FEW: usize = 3;

/// One line for each fault, or for many of one kind, and what to try.
pub(super) fn tensors(faults: &[TensorFault], advice: &str) -> String {
    let (mut exact, mut wide) = (HashMap::new(), HashMap::new());
    faults.iter().for_each(|fault| *exact.entry(numbered(&fault.what)).or_insert(0) += 1);
    let alone = |fault: &TensorFault| exact[&numbered(&fault.what)] <= FEW;
    let others = faults.iter().filter(|fault| alone(fault)).filter_map(cause);
    others.for_each(|cause| *wide.entry(cause).or_insert(0) += 1);
    let (mut lines, mut told) = (Vec::new(), HashSet::new());
    for fault in faults {
        let kind = numbered(&fault.what);
        let (count, shared) = (exact[&kind], cause(fault).and_then(|cause| Some((*wide.get(&cause)?, cause))));
        let line = match shared {
            _ if count > FEW => told
                .insert(kind)
                .then(|| format!("{}; the same of {} more ({})", fault.what, count - 1, numbered(&fault.tensor))),
            Some((count, cause)) if count > FEW => {
                let (before, after) = &cause;
                let line = format!("{}; {before} {} more{after}", fault.what, count - 1);
                told.insert(format!("{before}{after}")).then_some(line)
            }
            _ => Some(fault.what.clone()),
        };
        lines.extend(line);
    }
    let end = match lines.len() {
        _ if advice.is_empty() => "",
        1 => "; ",
        _ => "\n  ",
    };
    list(&lines) + end + advice
}

/// What different tensors may have in common: a block that is not there, one number instead of another.
fn cause(fault: &TensorFault) -> Option<(String, String)> {
    match &fault.misfit {
        Misfit::Missing => {
            let (before, _) = fault.tensor.split_once(|c: char| c.is_ascii_digit())?;
            Some(("also missing:".to_owned(), format!(" of {before}*")))
        }
        Misfit::Shape { found, needed } if found.len() == needed.len() => {
            let pairs: HashSet<_> = found.iter().zip(needed).filter(|(a, b)| a != b).collect();
            let [(found, needed)] = pairs.into_iter().collect::<Vec<_>>()[..] else { return None };
            Some((format!("{found} for {needed} in"), " too".to_owned()))
        }
        _ => None,
    }
}

/// A name, or a text with names, with `*` for every number between dots.
fn numbered(text: &str) -> String {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    text.split('.').map(|part| if digits(part) { "*" } else { part }).collect::<Vec<_>>().join(".")
}

/// One fault as it is, several one under the other.
pub(crate) fn list<T: fmt::Display>(faults: &[T]) -> String {
    if let [one] = faults {
        return one.to_string();
    }
    let mut text = format!("{} problems", faults.len());
    faults.iter().take(LISTED).for_each(|fault| text.push_str(&format!("\n  {fault}")));
    match faults.len() {
        0..=LISTED => text,
        all => text + &format!("\n  and {} more", all - LISTED),
    }
}

/// A name read from a file, fit for an error message: control characters escaped, and never pages long.
pub(crate) fn printable(name: &str) -> String {
    const LIMIT: usize = 200;
    let fit = |c: char| if matches!(c, '"' | '\'') { c.into() } else { c.escape_debug().to_string() };
    let mut text: String = name.chars().take(LIMIT).map(fit).collect();
    if name.chars().nth(LIMIT).is_some() {
        text.push_str("...");
    }
    text
}

/// A value of a JSON file, for people.
pub(crate) fn printable_json(value: &serde_json::Value) -> String {
    printable(&value.to_string()).replace("\\\"", "\"")
}
