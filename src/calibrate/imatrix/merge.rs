//! Adds up statistics files.

use std::ops::Range;
use std::path::{Path, PathBuf};

use ndarray::Array2;

use super::layout::{AT_A_TIME, GRAM, bytes_of, floats};
use super::{Entry, Imatrix, Writer, join};
use crate::checkpoint::mmap::Map;
use crate::error::{Fault, Misfit};
use crate::watch::Watch;
use crate::{Error, Result};

/// Adds up statistics files. Shards of a run become the file that the run would have written, byte for byte.
///
/// # Errors
/// If one cannot be read or is in the older format, if a matrix has another length in another file, if a shard is
/// missing, given twice or from another run, or if writing fails.
pub fn merge(paths: &[PathBuf], output: &Path, replace: bool, watch: &dyn Watch) -> Result<Imatrix> {
    let files = paths.iter().map(|p| Imatrix::open(p)).collect::<Result<Vec<_>>>()?;
    if files.iter().any(|file| file.label.is_some()) {
        return join::join(files, output, replace, watch);
    }
    let mut sum = Imatrix::default();
    for file in &files {
        if file.map.is_none() {
            let what = "the older format has no token counts; make it again as GGUF to merge it";
            return Err(Fault::unsupported(what).of(&file.path));
        }
        sum.origin.datasets.extend(file.origin.datasets.iter().cloned());
        if sum.origin.chunk_size == 0 {
            sum.origin.chunk_size = file.origin.chunk_size;
        }
        // Chunks of another length are counted by their tokens.
        let tokens = u64::from(file.origin.chunks) * u64::from(file.origin.chunk_size);
        let chunks = tokens.checked_div(u64::from(sum.origin.chunk_size)).unwrap_or(0);
        sum.origin.chunks = sum.origin.chunks.saturating_add(u32::try_from(chunks).unwrap_or(u32::MAX));
        for (name, entry) in &file.entries {
            let Some(to) = sum.entries.get_mut(name) else {
                sum.entries.insert(name.clone(), entry.clone());
                continue;
            };
            if to.dim() != entry.dim() {
                let ((counts, cols), (others, other_cols)) = (entry.dim(), to.dim());
                let what = format!(
                    "{cols} columns and {counts} counts, but {other_cols} and {others} in another file; the files are of \
                     different models"
                );
                let [found, needed] = [entry.dim(), to.dim()].map(|dim| Vec::from(<[usize; 2]>::from(dim)));
                return Err(Error::misfit(&file.path, name, Misfit::Shape { found, needed }, what));
            }
            add(&mut to.sum_sq, &entry.sum_sq);
            add(&mut to.counts, &entry.counts);
            match (&mut to.sum_abs, &entry.sum_abs) {
                (Some(to), Some(from)) => add(to, from),
                // Half of the sums of |x| are none.
                (to, _) => *to = None,
            }
        }
    }
    for entry in sum.entries.values_mut() {
        entry.sum_abs.get_or_insert_with(|| Array2::zeros(entry.sum_sq.dim()));
    }
    let whole = |name: &String, entry: &Entry| -> Result<bool> {
        for file in &files {
            if !file.grams.contains_key(name) || file.gram_bytes(name, entry)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    };
    let mut shapes = Vec::new();
    for (name, entry) in &sum.entries {
        let (experts, cols) = entry.dim();
        shapes.push((name.clone(), cols, experts, whole(name, entry)?));
    }
    let writer = Writer::begin(output, &sum.origin, None, shapes.clone(), replace)?;
    for (name, ..) in shapes.iter().filter(|(.., gram)| *gram) {
        let tensor = writer.names[&format!("{name}{GRAM}")];
        let ranges: Vec<(&Map, Range<usize>)> =
            files.iter().filter_map(|f| Some((f.map.as_ref()?, f.grams[name].range.clone()))).collect();
        let len = ranges[0].1.len();
        for from in (0..len).step_by(4 * AT_A_TIME) {
            let some = from..(from + 4 * AT_A_TIME).min(len);
            let mut sums = vec![0.0_f64; some.len() / 4];
            for (map, range) in &ranges {
                let part = range.start + some.start..range.start + some.end;
                sums.iter_mut().zip(floats(&map.bytes()[part.clone()])).for_each(|(s, x)| *s += f64::from(x));
                map.release(part);
            }
            writer.output.put(tensor, 0, from as u64, &bytes_of(sums.into_iter().map(|x| x as f32)))?;
        }
    }
    writer.finish(&sum, watch)?;
    Ok(sum)
}

fn add<'a>(to: impl IntoIterator<Item = &'a mut f32>, from: impl IntoIterator<Item = &'a f32>) {
    to.into_iter().zip(from).for_each(|(a, b)| *a = (f64::from(*a) + f64::from(*b)) as f32);
}
