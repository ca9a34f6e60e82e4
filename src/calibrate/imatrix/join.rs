//! Joins the shards of a run into the file that the run would have written, byte for byte.

use std::ops::{Add, Range};
use std::path::Path;

use aurora_quantizers::tree::{self, Place};
use ndarray::Array1;

use super::layout::{AT_A_TIME, GRAM, TREE, bytes_of, floats, triangle};
use super::{Entry, Imatrix, Shape, Writer};
use crate::checkpoint::mmap::Map;
use crate::error::Misfit;
use crate::watch::Watch;
use crate::{Error, Result};

/// Joins shards, given in any order.
///
/// # Errors
/// If one is missing, given twice, damaged, not a shard or from another run, or if writing fails.
pub(super) fn join(files: Vec<Imatrix>, output: &Path, replace: bool, watch: &dyn Watch) -> Result<Imatrix> {
    let files = in_order(files)?;
    let mut sum = Imatrix::new(files[0].origin.clone());
    sum.origin.chunks = files.iter().fold(0, |all, file| all.saturating_add(file.origin.chunks));
    let mut shapes: Vec<Shape> = Vec::new();
    for (name, entry) in &files[0].entries {
        for file in &files[1..] {
            let dim = |entry: &Entry| Vec::from(<[usize; 2]>::from(entry.dim()));
            let (other, needed) = (file.entries.get(name).map(dim), dim(entry));
            if other.as_ref() != Some(&needed) {
                let what = format!("has a different shape in {}; make the shard again", files[0].path.display());
                let misfit = other.map_or(Misfit::Missing, |found| Misfit::Shape { found, needed });
                return Err(Error::misfit(&file.path, name, misfit, what));
            }
        }
        let (experts, cols) = entry.dim();
        let mut whole = Entry::zeros(experts, cols);
        for expert in 0..experts {
            let of = |what: &str, width: usize| -> Result<Array1<f32>> {
                let read = |file: &Imatrix, node: usize| file.node_sums(name, what, expert, node, width);
                Ok(root(&files, read)?.into_iter().map(|x: f64| x as f32).collect())
            };
            whole.counts[expert] = of(TREE[0], 1)?[0];
            whole.sum_sq.row_mut(expert).assign(&of(TREE[1], cols)?);
            if let Some(sums) = &mut whole.sum_abs {
                sums.row_mut(expert).assign(&of(TREE[2], cols)?);
            }
        }
        sum.entries.insert(name.clone(), whole);
        shapes.push((name.clone(), cols, experts, files[0].trees.contains_key(&format!("{name}{}", TREE[3]))));
    }
    let writer = Writer::begin(output, &sum.origin, None, shapes.clone(), replace)?;
    for (name, cols, experts, _) in shapes.iter().filter(|(.., gram)| *gram) {
        let (tensor, length) = (writer.names[&format!("{name}{GRAM}")], triangle(*cols));
        for expert in 0..*experts {
            for from in (0..length).step_by(AT_A_TIME) {
                let some = from..length.min(from + AT_A_TIME);
                let read = |file: &Imatrix, node: usize| file.node_gram(name, expert, node, *cols, some.clone());
                let at = 4 * (expert * length + from) as u64;
                writer.output.put(tensor, 0, at, &bytes_of(root(&files, read)?))?;
                watch.go_on()?;
            }
        }
    }
    writer.finish(&sum, watch)?;
    Ok(sum)
}

/// All shards of a run, sorted by number.
fn in_order(files: Vec<Imatrix>) -> Result<Vec<Imatrix>> {
    let mut found: Vec<Imatrix> = Vec::new();
    for file in files {
        let Some(label) = file.label.clone() else {
            let what = "holds all samples of its run, but other files here are shards; merge the shards of one run";
            return Err(not_together(&file, what));
        };
        if let Some(first) = found.first()
            && let Some((what, here, there)) = label.differs(first.label.as_ref().expect("looked at before"))
        {
            let first = first.path.display();
            let what = format!("{} of another run: {what} is {here}, in {first} it is {there}", label.name());
            return Err(not_together(&file, &what));
        }
        if let Some(twin) = found.iter().find(|other| other.label.as_ref() == Some(&label)) {
            let what = format!("{} was already given as {}; name each shard once", label.name(), twin.path.display());
            return Err(not_together(&file, &what));
        }
        found.push(file);
    }
    let index = |file: &Imatrix| file.label.as_ref().map_or(0, |label| label.shard.index);
    found.sort_by_key(index);
    let count = found.first().and_then(|file| file.label.as_ref()).map_or(0, |label| label.shard.count);
    let missing = (0..count).find(|i| found.iter().all(|file| index(file) != *i));
    match missing {
        Some(i) => {
            let what = format!("shard {i} of {count} is missing; shards count from 0");
            Err(Error::conflict(["merge"], what))
        }
        None => Ok(found),
    }
}

/// A file that is none of those that were named with it.
fn not_together(file: &Imatrix, what: &str) -> Error {
    Error::conflict(["merge"], format!("{}: {what}", file.path.display()))
}

/// The sums of the root, from those of all files' nodes.
fn root<T: Copy + Add<Output = T>>(
    files: &[Imatrix],
    read: impl Fn(&Imatrix, usize) -> Result<Vec<T>>,
) -> Result<Vec<T>> {
    let mut nodes: Vec<(Place, Vec<T>)> = Vec::new();
    for file in files {
        for (node, place) in file.nodes().into_iter().enumerate() {
            tree::carry(&mut nodes, place, read(file, node)?, |mut left, right| {
                left.iter_mut().zip(right).for_each(|(a, b)| *a = *a + b);
                left
            });
        }
    }
    let (_, whole) = nodes.pop().expect("at least one shard of at least one leaf");
    Ok(whole)
}

impl Imatrix {
    /// The nodes whose sums are in the file.
    fn nodes(&self) -> Vec<Place> {
        self.label.as_ref().map_or(Vec::new(), |label| label.shard.nodes())
    }

    /// `width` numbers of one node.
    fn node_sums(&self, name: &str, what: &str, expert: usize, node: usize, width: usize) -> Result<Vec<f64>> {
        let (map, range) = self.of_node(name, what, (expert, node), (width, 8))?;
        Ok(map.bytes()[range].as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect())
    }

    /// Part of the triangle of one node.
    fn node_gram(&self, name: &str, expert: usize, node: usize, cols: usize, some: Range<usize>) -> Result<Vec<f32>> {
        let (map, range) = self.of_node(name, TREE[3], (expert, node), (triangle(cols), 4))?;
        let part = range.start + 4 * some.start..range.start + 4 * some.end;
        let numbers = floats(&map.bytes()[part.clone()]).collect();
        map.release(part);
        Ok(numbers)
    }

    /// The byte range of the `width` numbers of a node, each of `each` bytes.
    fn of_node(
        &self,
        name: &str,
        what: &str,
        (expert, node): (usize, usize),
        (width, each): (usize, usize),
    ) -> Result<(&Map, Range<usize>)> {
        let tensor = format!("{name}{what}");
        let nodes = self.nodes().len();
        let experts = self.entries.get(name).map_or(0, |entry| entry.dim().0);
        let needed = nodes.checked_mul(experts).and_then(|n| n.checked_mul(width));
        let info = self.trees.get(&tensor).filter(|info| info.elements() == needed);
        let (Some(info), Some(map)) = (info, &self.map) else {
            let what = format!("missing, or not {nodes} sums of {width} numbers for each of {experts} matrices");
            let misfit = match self.trees.get(&tensor) {
                None => Misfit::Missing,
                Some(info) => Misfit::Shape { found: info.shape.clone(), needed: vec![experts, nodes, width] },
            };
            return Err(Error::misfit(&self.path, &tensor, misfit, what));
        };
        let start = info.range.start + (expert * nodes + node) * width * each;
        Ok((map, start..start + width * each))
    }
}
