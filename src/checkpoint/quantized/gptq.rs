//! GPTQ (AutoGPTQ, GPTQModel, Optimum): codes packed along the inputs, zeros along the outputs, both in 32-bit words;
//! `weight = scale[g] * (code - zero[g])`. The first format stores every zero less one, `gptq_v2` as it is. `g_idx`
//! names the group of every input; with act order it is not `i / group_size`.

use super::super::source::TensorInfo;
use super::super::source::{Groups, Packed, StoredScales, Zeros};
use super::super::source::{IntLayout, Ints};
use super::method::{MatrixTensors, MethodRow, Reader, pack_dtype};
use super::stated::Stated;
use crate::error::{Fault, Result};

pub(super) const ROW: MethodRow = MethodRow { name: "gptq", open };

/// What one module is stored as.
#[derive(Debug, Clone, Copy)]
struct Module {
    bits: u32,
    /// `None`: the whole row.
    group: Option<usize>,
}

struct Gptq {
    usual: Module,
    /// Modules whose name matches have other settings, or none at all; the first match counts.
    dynamic: Vec<(fancy_regex::Regex, Option<Module>)>,
    less_one: bool,
}

fn open(stated: &Stated) -> Result<Box<dyn Reader>> {
    let key = if stated.text("checkpoint_format")?.is_some() { "checkpoint_format" } else { "format" };
    let less_one = match stated.text(key)? {
        None | Some("gptq") => true,
        Some("gptq_v2") => false,
        Some(other) => {
            return Err(stated.unsupported(key, format!("{other:?} is not supported, only gptq and gptq_v2")));
        }
    };
    if stated.flag("is_marlin_format")? == Some(true) {
        return Err(stated.unsupported("is_marlin_format", "Marlin's layout is not supported, only gptq and gptq_v2"));
    }
    pack_dtype(stated)?;
    let usual = Module { bits: stated.bits("bits")?, group: stated.group("group_size")? };
    let mut dynamic = Vec::new();
    for (pattern, changes) in stated.object("dynamic")?.into_iter().flatten() {
        let skipped = pattern.starts_with("-:");
        let plain = pattern.strip_prefix("-:").or(pattern.strip_prefix("+:")).unwrap_or(pattern);
        // Python's re.match: from the beginning of the name, to wherever.
        let regex = fancy_regex::Regex::new(&format!("^(?:{plain})"));
        let no_pattern = || Fault::damaged(format!("{pattern:?} is not a valid pattern"));
        let regex = regex.map_err(|e| stated.error("dynamic", no_pattern().because(e)))?;
        let changes = stated.inner(&format!("dynamic.{pattern}"), changes)?;
        let module = Module {
            bits: if changes.has("bits") { changes.bits("bits")? } else { usual.bits },
            group: if changes.has("group_size") { changes.group("group_size")? } else { usual.group },
        };
        dynamic.push((regex, (!skipped).then_some(module)));
    }
    Ok(Box::new(Gptq { usual, dynamic, less_one }))
}

impl Gptq {
    fn module(&self, stem: &str) -> Module {
        let found = self.dynamic.iter().find(|(pattern, _)| pattern.is_match(stem).unwrap_or(false));
        // A module that is said to be skipped but has codes is read as the others are.
        found.and_then(|(_, module)| *module).unwrap_or(self.usual)
    }
}

impl Reader for Gptq {
    fn stem<'t>(&self, tensor: &'t TensorInfo) -> Option<&'t str> {
        tensor.name.strip_suffix(".qweight")
    }

    fn looks_for(&self) -> &'static str {
        "end in .qweight"
    }

    fn read(&self, tensor: &TensorInfo, parts: &mut MatrixTensors<'_>) -> Result<Packed> {
        let Module { bits, group } = self.module(parts.stem());
        if !matches!(bits, 2 | 3 | 4 | 8) {
            let what = format!("{bits} bits; GPTQ checkpoints have 2, 3, 4 or 8");
            return Err(parts.fail(tensor, Fault::unsupported(what)));
        }
        let [words, rows] = parts.matrix(tensor)?;
        let width = bits as usize;
        if !(words * 32).is_multiple_of(width) {
            let what = format!("shape [{words}, {rows}]: {words} words do not hold a whole number of {bits}-bit codes");
            return Err(parts.fail(tensor, what));
        }
        let cols = words * 32 / width;
        let groups = parts.groups(tensor, rows, cols, group, true)?;
        let layout = IntLayout::Words { down: true, dense: true };
        let codes = parts.ints(tensor.clone(), [cols, rows], bits, layout)?;
        let scales = parts.need(".scales")?;
        parts.floats(&scales, &[groups.across, rows])?;
        if !(rows * width).is_multiple_of(32) {
            let what = format!("shape [{words}, {rows}]: the zeros of {rows} outputs do not fill whole words");
            return Err(parts.fail(tensor, what));
        }
        let zeros = parts.need(".qzeros")?;
        let layout = IntLayout::Words { down: false, dense: true };
        let zeros = parts.ints(zeros, [groups.across, rows], bits, layout)?;
        let zeros = Ints { less_one: self.less_one, ..zeros };
        let order = match parts.maybe(".g_idx") {
            Some(tensor) => parts.order(&tensor, groups)?,
            None => None,
        };
        Ok(Packed {
            method: ROW.name,
            bits,
            rows,
            cols,
            codes,
            transposed: true,
            table: None,
            scales: StoredScales::Stored(scales),
            zeros: Zeros::Stored(zeros),
            biases: None,
            groups: Groups { transposed: true, ..groups },
            order,
            parts: parts.taken(),
        })
    }
}
