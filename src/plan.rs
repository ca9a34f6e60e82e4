//! The format and size of every tensor of the output, decided before any work.
//!
//! A pure function of shapes, roles and rules: a plan can be printed (`--dry-run`), compared and predicted to the
//! byte. Reads no tensor values.

use aurora_quantizers::fallback::fallback;
use aurora_quantizers::{Format, Spec, formats};
use regex::Regex;

use crate::model::{ModelGraph, Param, ParamId, Role};
use crate::{Error, Result};

/// What `--type` can name: a rule that gives each tensor a format, and the number by which GGUF records it.
#[derive(Debug)]
pub struct FileType {
    /// Name as typed and printed.
    pub name: &'static str,
    /// llama.cpp's `general.file_type`.
    pub id: u32,
    /// One line for `--help`.
    pub about: &'static str,
}

/// All file types, in the order in which help and docs list them. Each is also the name of its format.
pub static FILE_TYPES: &[FileType] = &[
    FileType { name: "f32", id: 0, about: "32-bit floats: nothing is lost" },
    FileType { name: "f16", id: 1, about: "half precision floats: 11 significant bits, at most 65504" },
    FileType { name: "bf16", id: 32, about: "bfloat16: 8 significant bits, the range of f32" },
    FileType { name: "q8_0", id: 7, about: "8 bits, one scale for 32 weights" },
    FileType { name: "q5_1", id: 9, about: "5 bits, scale and minimum for 32 weights" },
    FileType { name: "q5_0", id: 8, about: "5 bits, one scale for 32 weights" },
    FileType { name: "q4_1", id: 3, about: "4 bits, scale and minimum for 32 weights" },
    FileType { name: "q4_0", id: 2, about: "4 bits, one scale for 32 weights" },
];

impl FileType {
    /// The file type with this name, in any case.
    ///
    /// # Errors
    /// If there is none; the error lists those that there are.
    pub fn by_name(name: &str) -> Result<&'static FileType> {
        FILE_TYPES.iter().find(|t| t.name.eq_ignore_ascii_case(name)).ok_or_else(|| {
            let known: Vec<_> = FILE_TYPES.iter().map(|t| t.name).collect();
            Error::unsupported(format!("type {name:?} is not known; known types: {}", known.join(", ")))
        })
    }

    /// The format that it gives to matrices.
    pub fn format(&self) -> &'static dyn Format {
        formats::by_name(self.name).expect("a file type is named after its format")
    }
}

/// The tensor format with this name.
///
/// # Errors
/// If there is none that can be written; the error lists those that there are.
pub fn tensor_format(name: &str) -> Result<&'static dyn Format> {
    FileType::by_name(name).map(FileType::format)
}

/// Which format each tensor is asked to have.
pub struct Rules {
    /// For matrices in general.
    pub file_type: &'static FileType,
    /// For the output matrix, if not the same.
    pub output: Option<&'static dyn Format>,
    /// For the token embedding, if not the same.
    pub embedding: Option<&'static dyn Format>,
    /// For matrices whose name matches; the first match wins, over everything else.
    pub overrides: Vec<(Regex, &'static dyn Format)>,
}

/// One tensor of the output.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorPlan {
    /// The parameter.
    pub param: ParamId,
    /// Its name in the output.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// What the rules ask for.
    pub requested: &'static Spec,
    /// What it gets.
    pub actual: &'static Spec,
    /// Why the two differ.
    pub reason: Option<String>,
    /// Size in the output, without padding.
    pub bytes: u64,
}

impl TensorPlan {
    /// Numbers in it.
    pub fn weights(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product()
    }

    /// Row length.
    pub fn cols(&self) -> usize {
        self.shape[self.shape.len() - 1]
    }

    /// Rows over all outer dimensions; 1 for a vector.
    pub fn rows(&self) -> usize {
        self.shape[..self.shape.len() - 1].iter().product()
    }
}

/// The whole output.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Recorded in the header.
    pub file_type: u32,
    /// All tensors, in file order.
    pub tensors: Vec<TensorPlan>,
}

impl Plan {
    /// Decides every tensor's format.
    ///
    /// # Errors
    /// If an override matches no matrix (a typing error would otherwise pass unnoticed).
    pub fn new(graph: &ModelGraph, rules: &Rules) -> Result<Plan> {
        let mut hits = vec![0_usize; rules.overrides.len()];
        let tensors =
            graph.params.iter().enumerate().map(|(i, p)| plan_tensor(ParamId(i), p, rules, &mut hits)).collect();
        if let Some(unused) = hits.iter().position(|&n| n == 0) {
            return Err(Error::unsupported(format!(
                "--tensor-type {:?} matches no matrix of this model; names look like {:?}",
                rules.overrides[unused].0.as_str(),
                graph.params.iter().find(|p| p.role.quantizable()).map_or("", |p| &p.name)
            )));
        }
        Ok(Plan { file_type: rules.file_type.id, tensors })
    }

    /// Tensors that do not get the format they were asked to have.
    pub fn fallbacks(&self) -> impl Iterator<Item = &TensorPlan> {
        self.tensors.iter().filter(|t| t.reason.is_some())
    }

    /// Numbers in all tensors.
    pub fn weights(&self) -> u64 {
        self.tensors.iter().map(TensorPlan::weights).sum()
    }

    /// Bytes of all tensors, without header and padding.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.bytes).sum()
    }

    /// Storage bits per weight over all tensors.
    pub fn bits_per_weight(&self) -> f64 {
        self.bytes() as f64 * 8.0 / self.weights() as f64
    }
}

fn plan_tensor(id: ParamId, param: &Param, rules: &Rules, hits: &mut [usize]) -> TensorPlan {
    let requested = requested(param, rules, hits);
    let (actual, reason) = match fallback(requested, param.cols()) {
        None => (requested, None),
        Some((spec, reason)) => (spec, Some(reason)),
    };
    let row = actual.bytes_for(param.cols()).expect("the fallback divides the row");
    TensorPlan {
        param: id,
        name: param.name.clone(),
        shape: param.shape.clone(),
        requested,
        actual,
        reason,
        bytes: row as u64 * param.rows() as u64,
    }
}

fn requested(param: &Param, rules: &Rules, hits: &mut [usize]) -> &'static Spec {
    if !param.role.quantizable() || param.shape.len() < 2 {
        return formats::by_name("f32").expect("a row of FORMATS").spec();
    }
    let mut chosen = None;
    for (hit, (pattern, format)) in hits.iter_mut().zip(&rules.overrides) {
        if pattern.is_match(&param.name) {
            *hit += 1;
            chosen = chosen.or(Some(*format));
        }
    }
    let by_role = match param.role {
        Role::Output => rules.output,
        Role::Embedding => rules.embedding,
        _ => None,
    };
    chosen.or(by_role).unwrap_or_else(|| rules.file_type.format()).spec()
}
