//! compressed-tensors (llm-compressor, vLLM): integers packed along the inputs, or bytes, or eight-bit floats;
//! `weight = scale * (code - zero)`. Integers are signed; packed ones are stored plus half their range.
//!
//! Which modules have which settings is said by groups with targets. Up to release 0.17 a word holds whole fields only,
//! from 0.18 on fields run on from word to word; where the two differ, the number of words tells them apart.

use super::super::source::TensorInfo;
use super::super::source::{Groups, Packed, StoredScales, Zeros};
use super::super::source::{IntLayout, Ints};
use super::eights;
use super::method::{CACHE_SCALES, MatrixTensors, MethodRow, Reader, Share};
use super::stated::Stated;
use crate::error::{Fault, Result};

pub(super) const ROW: MethodRow = MethodRow { name: "compressed-tensors", open };

const FORMATS: [&str; 5] = ["pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "dense"];

/// What one group of modules is stored as.
#[derive(Debug)]
struct Module {
    targets: Vec<Target>,
    bits: u32,
    share: Share,
}

/// What a group's settings are for.
#[derive(Debug)]
enum Target {
    /// Modules whose name the expression fits.
    Pattern(fancy_regex::Regex),
    /// One module, or a class of them.
    Name(String),
}

struct CompressedTensors {
    modules: Vec<Module>,
    /// Whether fields run on from word to word, where it cannot be told from the number of words.
    dense: bool,
}

fn open(stated: &Stated) -> Result<Box<dyn Reader>> {
    let format = stated.text("format")?.unwrap_or("mixed-precision");
    if format != "mixed-precision" {
        known_format(stated, format)?;
    }
    if let Some(config) = stated.object("sparsity_config")? {
        let inner = stated.inner("sparsity_config", &serde_json::Value::Object(config.clone()))?;
        if let Some(other) = inner.text("format")?.filter(|f| *f != "dense") {
            return Err(inner
                .unsupported("format", format!("sparse storage of codes ({other:?}) is not supported, only dense")));
        }
    }
    if stated.object("transform_config")?.is_some_and(|t| !t.is_empty()) {
        return Err(stated.unsupported("transform_config", "transforms that run with the model are not supported"));
    }
    let mut modules = Vec::new();
    for (name, group) in stated.object("config_groups")?.into_iter().flatten() {
        let group = stated.inner(&format!("config_groups.{name}"), group)?;
        if let Some(format) = group.text("format")? {
            known_format(&group, format)?;
        }
        let weights = match group.object("weights")? {
            Some(weights) => group.inner("weights", &serde_json::Value::Object(weights.clone()))?,
            // Only activations are rounded.
            None => continue,
        };
        let share = match weights.text("strategy")? {
            Some("tensor") => Share::Tensor,
            Some("channel") => Share::Row,
            Some("group") => weights.group("group_size")?.map_or(Share::Row, Share::Columns),
            Some("block") => match weights.pair("block_structure")? {
                Some([down, across]) => Share::Block(down, across),
                None => return Err(weights.error("block_structure", "missing; strategy block needs it")),
            },
            Some(other) => return Err(weights.unsupported("strategy", format!("{other:?} is not supported"))),
            None if weights.has("group_size") => weights.group("group_size")?.map_or(Share::Row, Share::Columns),
            None => Share::Tensor,
        };
        let target = |text: &String| match text.strip_prefix("re:") {
            // Python's re.match: from the beginning of the name, to wherever.
            Some(pattern) => fancy_regex::Regex::new(&format!("^(?:{pattern})")).map(Target::Pattern).map_err(|e| {
                let fault = Fault::damaged(format!("{text:?} is not a valid pattern")).because(e);
                group.error("targets", fault)
            }),
            None => Ok(Target::Name(text.clone())),
        };
        let targets = group.texts("targets")?.iter().map(target).collect::<Result<_>>()?;
        modules.push(Module { targets, bits: weights.bits("num_bits")?, share });
    }
    if modules.is_empty() {
        return Err(stated.error("config_groups", "missing or empty; they say how weights are stored"));
    }
    let version = stated.text("version")?.unwrap_or_default();
    let mut numbers = version.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
    let dense = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (0, 18);
    Ok(Box::new(CompressedTensors { modules, dense }))
}

fn known_format(stated: &Stated, format: &str) -> Result<()> {
    match FORMATS.contains(&format) {
        true => Ok(()),
        false => {
            let what = format!("{format:?} is not supported, only {}", FORMATS.join(", "));
            Err(stated.unsupported("format", what))
        }
    }
}

impl CompressedTensors {
    /// The settings of a module: those for its very name, else for a pattern, else for its class.
    fn module(&self, stem: &str) -> &Module {
        let named = |target: &Target| matches!(target, Target::Name(name) if name == stem);
        let matched = |target: &Target| matches!(target, Target::Pattern(p) if p.is_match(stem).unwrap_or(false));
        let class = |target: &Target| matches!(target, Target::Name(name) if !name.contains('.'));
        let find = |fits: &dyn Fn(&Target) -> bool| self.modules.iter().find(|m| m.targets.iter().any(fits));
        find(&named).or_else(|| find(&matched)).or_else(|| find(&class)).unwrap_or(&self.modules[0])
    }

    fn packed(&self, tensor: &TensorInfo, parts: &mut MatrixTensors<'_>) -> Result<Packed> {
        let Module { bits, share, .. } = *self.module(parts.stem());
        let shape = parts.need(".weight_shape")?;
        let [rows, cols] = parts.stated_shape(&shape)?;
        let packings = [self.dense, !self.dense].map(|dense| IntLayout::Words { down: false, dense });
        let fits = |layout: &&IntLayout| tensor.shape == Ints::word_shape(rows, cols, bits, **layout);
        let Some(&layout) = packings.iter().find(fits) else {
            let words = packings.map(|layout| Ints::word_shape(rows, cols, bits, layout));
            let what = format!(
                "shape {:?}, needed {:?} (or {:?}) for {bits} bits of [{rows}, {cols}]",
                tensor.shape, words[0], words[1]
            );
            return Err(parts.other_shape(tensor, &words[0], what));
        };
        let IntLayout::Words { dense, .. } = layout else { unreachable!("one of the two above") };
        let bias = 1 << (bits - 1);
        let scales = parts.need(".weight_scale")?;
        let groups = parts.shared(tensor, &scales, share, rows, cols)?;
        let codes = Ints { bias, ..parts.ints(tensor.clone(), [rows, cols], bits, layout)? };
        let zeros = match parts.maybe(".weight_zero_point") {
            None => Zeros::All(0),
            Some(zeros) => {
                let layout = IntLayout::Words { down: true, dense };
                Zeros::Stored(Ints { bias, ..parts.ints(zeros, [groups.down, groups.across], bits, layout)? })
            }
        };
        self.finish(
            parts,
            Packed {
                method: ROW.name,
                bits,
                rows,
                cols,
                codes,
                transposed: false,
                table: None,
                scales: StoredScales::Stored(scales),
                zeros,
                biases: None,
                groups,
                order: None,
                parts: Vec::new(),
            },
        )
    }

    fn bytes(&self, tensor: &TensorInfo, parts: &mut MatrixTensors<'_>) -> Result<Packed> {
        let [rows, cols] = parts.matrix(tensor)?;
        let table = eights::table(tensor);
        let layout = IntLayout::Bytes { signed: table.is_none() };
        let codes = parts.ints(tensor.clone(), [rows, cols], 8, layout)?;
        let scales = parts.need(".weight_scale")?;
        let groups = parts.shared(tensor, &scales, self.module(parts.stem()).share, rows, cols)?;
        let zeros = match parts.maybe(".weight_zero_point") {
            Some(zeros) if table.is_none() => {
                let same = zeros.shape == scales.shape;
                if !same {
                    let what = format!("shape {:?}, needed that of the scales, {:?}", zeros.shape, scales.shape);
                    return Err(parts.other_shape(&zeros, &scales.shape, what));
                }
                let zeros = TensorInfo { shape: vec![groups.down, groups.across], ..zeros };
                Zeros::Stored(parts.ints(zeros, [groups.down, groups.across], 8, IntLayout::Bytes { signed: true })?)
            }
            _ => Zeros::All(0),
        };
        self.finish(
            parts,
            Packed {
                method: ROW.name,
                bits: 8,
                rows,
                cols,
                codes,
                transposed: false,
                table,
                scales: StoredScales::Stored(scales),
                zeros,
                biases: None,
                groups,
                order: None,
                parts: Vec::new(),
            },
        )
    }

    fn finish(&self, parts: &mut MatrixTensors<'_>, packed: Packed) -> Result<Packed> {
        let groups: Groups = packed.groups;
        let order = match parts.maybe(".weight_g_idx") {
            Some(tensor) => parts.order(&tensor, groups)?,
            None => None,
        };
        parts.drop(&[".input_scale", ".input_zero_point", ".output_scale", ".output_zero_point"]);
        Ok(Packed { order, parts: parts.taken(), ..packed })
    }
}

impl Reader for CompressedTensors {
    fn stem<'t>(&self, tensor: &'t TensorInfo) -> Option<&'t str> {
        let bytes = tensor.spec.name == "i8" || eights::table(tensor).is_some();
        let plain = tensor.name.strip_suffix(".weight").filter(|_| bytes);
        tensor.name.strip_suffix(".weight_packed").or(plain)
    }

    fn looks_for(&self) -> &'static str {
        "end in .weight_packed or hold bytes"
    }

    fn idle(&self) -> &'static [&'static str] {
        &CACHE_SCALES
    }

    fn read(&self, tensor: &TensorInfo, parts: &mut MatrixTensors<'_>) -> Result<Packed> {
        match tensor.name.ends_with(".weight_packed") {
            true => self.packed(tensor, parts),
            false => self.bytes(tensor, parts),
        }
    }
}
