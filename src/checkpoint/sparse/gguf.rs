//! Sparse matrices of a GGUF file of our own; `docs/sparse.md` says how they are laid out.
//!
//! The architecture has a prefix, so that readers that do not know of this refuse the file by its name. Here it is
//! taken off again.

use std::collections::BTreeSet;

use aurora_quantizers::sparse::{Packing, SparseLayout};
use aurora_quantizers::{Store, formats};

use super::keys::{
    ARCHITECTURE, DIMS, KEYS, LAYOUTS, PACKINGS, PREFIX, SHAPES, TENSORS, TYPES, VERSION, VERSION_KEY, part,
};
use super::parts::{AGAIN, Parts, check_masks, replace, tensor};
use crate::Result;
use crate::checkpoint::config::{Config, GgufConfig};
use crate::checkpoint::mapped::Mapped;
use crate::checkpoint::source::{SparseIndex, SparseMatrix, SparsePlaces, TensorInfo, TensorSource};
use crate::error::{Fault, printable};
use crate::gguf::{Value, whole};

/// What a file says of one matrix.
struct Stated<'a> {
    name: &'a str,
    packing: Packing,
    store: &'static dyn Store,
    shape: Vec<usize>,
}

/// Replaces parts by matrices, if the file has any.
///
/// # Errors
/// If keys or tensors do not fit together: which one.
pub(crate) fn adopt(source: Mapped) -> Result<Mapped> {
    let Config::Gguf(config) = source.config() else { return Ok(source) };
    let Some(Value::String(name)) = config.metadata.get(ARCHITECTURE) else { return Ok(source) };
    let Some(dense) = name.strip_prefix(PREFIX).map(str::to_owned) else { return Ok(source) };
    let matrices = stated(config)?;
    let matrices = matrices.into_iter().map(|matrix| read(&source, &matrix)).collect::<Result<_>>()?;
    let mut config = config.clone();
    config.metadata.set(ARCHITECTURE, Value::String(dense));
    config.metadata.retain(|key| !key.starts_with(KEYS));
    Ok(replace(source, matrices)?.with_config(Config::Gguf(config)))
}

/// What the keys say.
fn stated(config: &GgufConfig) -> Result<Vec<Stated<'_>>> {
    let missing = |key: &str| config.error(key, format!("missing in a file of sparse matrices; {AGAIN}"));
    let version = config.metadata.get(VERSION_KEY).ok_or_else(|| missing(VERSION_KEY))?;
    if whole(version) != Some(u64::from(VERSION)) {
        let found = printable(&version.to_string_representation());
        let what = format!(
            "version {found} of sparse matrices is not supported, only {VERSION}; read the file with the release that \
             wrote it, or with a newer one"
        );
        return Err(config.unsupported(VERSION_KEY, what));
    }
    let array = |key: &str| match config.metadata.get(key) {
        Some(Value::Array(list)) => Ok(&list.values),
        Some(_) => Err(config.error(key, format!("must be a list; {AGAIN}"))),
        None => Err(missing(key)),
    };
    let names = array(TENSORS)?;
    for (key, each) in [(LAYOUTS, 1), (TYPES, 1), (SHAPES, DIMS)] {
        let (found, needed) = (array(key)?.len(), names.len() * each);
        if found != needed {
            let what = format!("has {found} entries, needed {needed} for {} matrices; {AGAIN}", names.len());
            return Err(config.error(key, what));
        }
    }
    let mut known = BTreeSet::new();
    let matrix = |at: usize| {
        let text = |key: &str| match &array(key)?[at] {
            Value::String(text) => Ok(text.as_str()),
            _ => Err(config.error(key, format!("must be a list of texts; {AGAIN}"))),
        };
        let name = text(TENSORS)?;
        if !known.insert(name) {
            return Err(config.error(TENSORS, format!("has {} twice; {AGAIN}", printable(name))));
        }
        let layout = text(LAYOUTS)?;
        let Some(packing) = PACKINGS.into_iter().find(|packing| packing.name() == layout) else {
            let names = PACKINGS.map(Packing::name).join(", ");
            let what = format!("{:?} of {} is not supported, only {names}", printable(layout), printable(name));
            return Err(config.unsupported(LAYOUTS, what));
        };
        let Some(store) = formats::by_name(text(TYPES)?) else {
            let what = format!("{:?} of {} is not a type that is read", printable(text(TYPES)?), printable(name));
            return Err(config.unsupported(TYPES, what));
        };
        let dims = &array(SHAPES)?[DIMS * at..DIMS * (at + 1)];
        let dims: Option<Vec<usize>> = dims.iter().map(|n| whole(n).and_then(|n| usize::try_from(n).ok())).collect();
        let shape = dims.as_deref().and_then(shape).ok_or_else(|| {
            let what =
                format!("{dims:?} (innermost first) are no dimensions of a matrix, {}; {AGAIN}", printable(name));
            config.error(SHAPES, what)
        })?;
        Ok(Stated { name, packing, store, shape })
    };
    (0..names.len()).map(matrix).collect()
}

/// Dimensions, outermost first; `None` if they are none of a matrix, or too large to count.
fn shape(dims: &[usize]) -> Option<Vec<usize>> {
    let used = dims.iter().position(|n| *n == 0).unwrap_or(dims.len());
    let (shape, rest) = dims.split_at(used);
    let fits = used > 1 && rest.iter().all(|n| *n == 0);
    let size = shape.iter().try_fold(8_usize, |size, n| size.checked_mul(*n));
    (fits && size.is_some()).then(|| shape.iter().rev().copied().collect())
}

fn read(source: &Mapped, stated: &Stated<'_>) -> Result<TensorInfo> {
    let Stated { name, packing, store, shape } = stated;
    let (packing, store) = (*packing, *store);
    let cols = *shape.last().expect("at least two");
    let rows: usize = shape[..shape.len() - 1].iter().product();
    let layout = SparseLayout::new(packing, store, cols)
        .map_err(|e| Fault::damaged(format!("{e}; {AGAIN}")).of_tensor((source as &dyn TensorSource).path(), name))?;
    let mut parts = Parts::new(source, name, packing.name());
    let mask = parts.need(&part(name, "mask"), &["i8"], Some(&[rows, layout.mask_row()]))?;
    let index = match layout.fixed() {
        Some(_) => SparseIndex::Fixed,
        None => SparseIndex::Stored(parts.need(&part(name, "index"), &["i64"], Some(&[rows + 1]))?),
    };
    let codes = layout.scales_row() > 0;
    let numbers = if codes { "i8" } else { store.spec().name };
    let values = parts.need(&part(name, "values"), &[numbers], None)?;
    let scales = match codes {
        true => Some(parts.need(&part(name, "scales"), &["f16"], Some(&[rows, layout.scales_row() / 2]))?),
        false => None,
    };
    let places = SparsePlaces::Mask { layout, mask, index, scales };
    let matrix = SparseMatrix {
        name: packing.name(),
        rows,
        cols,
        store,
        places,
        values,
        parts: std::mem::take(&mut parts.taken),
    };
    check_masks(&matrix, &parts)?;
    Ok(tensor(name, shape.clone(), matrix))
}
