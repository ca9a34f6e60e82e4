//! Adds up statistics files.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::layout::{AT_A_TIME, GRAM, bytes_of, floats};
use super::{Entry, Imatrix, Writer, join};
use crate::checkpoint::mmap::Map;
use crate::error::printable;
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
            return Err(Error::malformed(&file.path, what));
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
            if (to.cols, to.counts.len()) != (entry.cols, entry.counts.len()) {
                let what = format!(
                    "{} columns and {} counts, but {} and {} in another file; the files are of different models",
                    entry.cols,
                    entry.counts.len(),
                    to.cols,
                    to.counts.len()
                );
                return Err(Error::tensor(&file.path, printable(name), what));
            }
            add(&mut to.sum_sq, &entry.sum_sq);
            add(&mut to.counts, &entry.counts);
            // If a file has no sums of |x|, the total has none either.
            let abs = to.sum_abs.len().min(entry.sum_abs.len());
            to.sum_abs.truncate(abs);
            add(&mut to.sum_abs, &entry.sum_abs);
        }
    }
    for entry in sum.entries.values_mut() {
        entry.sum_abs.resize(entry.sum_sq.len(), 0.0);
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
        shapes.push((name.clone(), entry.cols, entry.counts.len(), whole(name, entry)?));
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
            writer.output.put(tensor, from as u64, &bytes_of(sums.into_iter().map(|x| x as f32)))?;
        }
    }
    writer.finish(&sum, watch)?;
    Ok(sum)
}

fn add(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(a, b)| *a = (f64::from(*a) + f64::from(*b)) as f32);
}
