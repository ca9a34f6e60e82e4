//! MLX (mlx-lm): `weight = scale * code + bias`, with both shared by a group of neighbours along a row. Codes of 2 to 8
//! bits follow each other from the lowest bits of 32-bit words, and may run on from one word into the next.

use std::collections::HashMap;

use super::super::source::{IntLayout, Packed, StoredScales, TensorInfo, Zeros};
use super::method::{MatrixTensors, MethodRow, Reader};
use super::stated::Stated;
use crate::Result;

pub(super) const ROW: MethodRow = MethodRow { name: "mlx", open };

struct Mlx {
    usual: Module,
    /// Settings of single layers, by their names.
    others: HashMap<String, Module>,
}

/// How the matrices of a layer are packed.
#[derive(Clone, Copy)]
struct Module {
    bits: u32,
    group: Option<usize>,
}

fn module(stated: &Stated) -> Result<Module> {
    match stated.text("mode")? {
        None | Some("affine") => Ok(Module { bits: stated.bits("bits")?, group: stated.group("group_size")? }),
        Some(other) => {
            let what = format!("{other:?} is not supported, only \"affine\"; use the original checkpoint");
            Err(stated.error("mode", what))
        }
    }
}

fn open(stated: &Stated) -> Result<Box<dyn Reader>> {
    let usual = module(stated)?;
    let others =
        stated.objects().map(|(name, settings)| Ok((name.to_owned(), module(&stated.inner(name, settings)?)?)));
    Ok(Box::new(Mlx { usual, others: others.collect::<Result<_>>()? }))
}

impl Reader for Mlx {
    fn stem<'t>(&self, tensor: &'t TensorInfo) -> Option<&'t str> {
        tensor.name.strip_suffix(".weight").filter(|_| tensor.spec.name == "u32")
    }

    fn looks_for(&self) -> &'static str {
        "hold words of 32 bits"
    }

    fn read(&self, tensor: &TensorInfo, tensors: &mut MatrixTensors<'_>) -> Result<Packed> {
        let Module { bits, group } = self.others.get(tensors.stem()).copied().unwrap_or(self.usual);
        // The matrices of a layer's experts lie one below the other.
        let (outer, down, words) = match tensor.shape[..] {
            [down, words] if down > 0 && words > 0 => (1, down, words),
            [outer, down, words] if outer > 0 && down > 0 && words > 0 => (outer, down, words),
            _ => {
                let what = format!("shape {:?}, needed a matrix or a stack of them", tensor.shape);
                return Err(tensors.fail(tensor, what));
            }
        };
        let flat = |t: TensorInfo| match t.shape[..] {
            [n, rows, cols] if n == outer => TensorInfo { shape: vec![n * rows, cols], ..t },
            _ => t,
        };
        let (rows, width) = (outer * down, bits as usize);
        let Some(fields) = words.checked_mul(32).filter(|n| n.is_multiple_of(width)) else {
            let what = format!("rows of {words} words hold no whole number of {bits}-bit codes");
            return Err(tensors.fail(tensor, what));
        };
        let cols = fields / width;
        let groups = tensors.groups(tensor, rows, cols, group, false)?;
        let layout = IntLayout::Words { down: false, dense: true };
        let codes = tensors.ints(flat(tensor.clone()), [rows, cols], bits, layout)?;
        let [scales, biases] = [flat(tensors.need(".scales")?), flat(tensors.need(".biases")?)];
        tensors.floats(&scales, &[rows, groups.across])?;
        tensors.floats(&biases, &[rows, groups.across])?;
        Ok(Packed {
            method: ROW.name,
            bits,
            rows,
            cols,
            codes,
            transposed: false,
            table: None,
            scales: StoredScales::Stored(scales),
            zeros: Zeros::All(0),
            biases: Some(biases),
            groups,
            order: None,
            parts: tensors.taken(),
        })
    }
}
