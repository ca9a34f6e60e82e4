//! Checkpoints whose matrices are already codes: GPTQ, AWQ and their like.
//!
//! In come the tensors of the files and what `quantization_config` says; out comes the same list with every group of
//! tensors that makes up one matrix (codes, scales, zeros) replaced by that matrix, under the name that it would have
//! without. So nothing that knows models has to know methods. One file and one row of [`METHODS`] for each.

use std::sync::Arc;

mod awq;
mod bitsandbytes;
mod compressed_tensors;
mod eights;
mod fp8;
mod gptq;
mod ints;
mod method;
mod mlx;
mod packed;
mod stated;

pub use method::MethodRow;
use method::{MatrixTensors, Reader};
pub use packed::{RowGrid, Survey};
pub use stated::Stated;

use super::config::Config;
use super::config::HfConfig;
use super::mapped::Mapped;
use super::safetensors::PACKED;
use super::source::{TensorInfo, TensorSource};
use super::sparse;
use crate::error::{Fault, Result, printable};

/// All methods that are read.
pub static METHODS: &[MethodRow] =
    &[gptq::ROW, awq::ROW, compressed_tensors::ROW, fp8::ROW, fp8::FBGEMM, fp8::MODELOPT, bitsandbytes::ROW, mlx::ROW];

/// The method of a checkpoint, if it states one.
fn reader(stated: &Stated) -> Result<(&'static MethodRow, Box<dyn Reader>)> {
    let known = || METHODS.iter().map(|m| m.name).collect::<Vec<_>>().join(", ");
    let Some(name) = stated.method()? else {
        let what = format!("missing: the checkpoint is quantised, but does not say how; known methods: {}", known());
        return Err(stated.error("quant_method", what));
    };
    let Some(row) = METHODS.iter().find(|m| m.name == name) else {
        let what = format!(
            "the checkpoint is quantised with {}, which is not supported (known: {}); use the original checkpoint",
            printable(name),
            known()
        );
        return Err(stated.unsupported("quant_method", what));
    };
    Ok((row, (row.open)(stated)?))
}

/// What a checkpoint states of codes, if it states anything. Sparse matrices of floats are none.
fn stated(config: &HfConfig) -> Result<Option<Stated>> {
    let Some(stated) = Stated::of(config)? else { return Ok(None) };
    Ok(if sparse::hf::layout(&stated)?.is_some() { None } else { Some(stated) })
}

/// Whether what a configuration states of quantised weights, if anything, can be read.
///
/// # Errors
/// If it names an unknown method or layout, or is malformed.
pub fn understood(config: &HfConfig) -> Result<()> {
    stated(config)?.map_or(Ok(()), |stated| reader(&stated).map(|_| ()))
}

/// Replaces codes, scales and zeros by the matrices that they make up. A source whose method is not understood stays as
/// it is: it can still be looked at, and [`check`] says what is wrong.
///
/// # Errors
/// If tensors do not fit together: which one.
pub(super) fn adopt(source: Mapped) -> Result<Mapped> {
    let Config::HuggingFace(config) = source.config() else { return Ok(source) };
    let Ok(Some(Ok((_, reader)))) = stated(config).map(|s| s.map(|s| reader(&s))) else { return Ok(source) };
    let (mut matrices, mut taken) = (Vec::new(), Vec::new());
    for codes in source.tensors() {
        let Some(stem) = reader.stem(codes) else { continue };
        let mut parts = MatrixTensors { source: &source, stem, taken: vec![codes.clone()] };
        let packed = reader.read(codes, &mut parts)?;
        taken.extend(packed.parts.iter().map(|t| t.name.clone()));
        // The matrices of experts may be stacked.
        let outer = &codes.shape[..codes.shape.len().saturating_sub(2)];
        let shape = [outer, &[packed.rows / outer.iter().product::<usize>(), packed.cols]].concat();
        let name = format!("{stem}.weight");
        if name != codes.name && (&source as &dyn TensorSource).find(&name).is_some() {
            return Err(parts.fail(codes, format!("the checkpoint also has {} as plain numbers", printable(&name))));
        }
        let matrix = TensorInfo { name, shape, spec: &PACKED, packed: Some(Arc::new(packed)), ..codes.clone() };
        matrices.push(matrix);
    }
    taken.sort();
    let idle = |t: &TensorInfo| reader.idle().iter().any(|end| t.name.ends_with(end));
    let rest = source.tensors().iter().filter(|t| taken.binary_search(&t.name).is_err());
    let (idle, kept): (Vec<&TensorInfo>, Vec<_>) = rest.partition(|t| idle(t));
    let idle = idle.into_iter().map(|t| t.name.clone()).collect();
    let tensors = kept.into_iter().cloned().chain(matrices).collect();
    Ok(source.with_tensors(tensors).without(idle))
}

/// Whether a checkpoint that says that it is quantised was understood, and is.
///
/// # Errors
/// If its method is not known (a tensor of codes is named where there is one), or no tensor is what it says.
pub fn check(source: &dyn TensorSource) -> Result<()> {
    let Config::HuggingFace(config) = source.config() else { return Ok(()) };
    let Some(stated) = stated(config)? else { return Ok(()) };
    let (row, reader) = match reader(&stated) {
        Ok(found) => found,
        Err(e) => {
            let integers = |t: &&TensorInfo| t.spec.kind == aurora_quantizers::spec::Kind::Int && t.shape.len() > 1;
            let Some(codes) = source.tensors().iter().find(integers) else { return Err(e) };
            return Err(Fault::unsupported("cannot be read").because(e).of_tensor(source.file_of(codes), &codes.name));
        }
    };
    if source.tensors().iter().all(|t| t.packed.is_none()) {
        let what = format!(
            "the checkpoint says that it is quantised ({}), but none of its tensors is (they would {}); if the weights \
             were merged or dequantised, remove this entry from {}",
            row.name,
            reader.looks_for(),
            stated.file()
        );
        return Err(stated.error("quant_method", what));
    }
    Ok(())
}
