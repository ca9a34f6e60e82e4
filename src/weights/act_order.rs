//! Act order undone: columns put in the order of their groups, and with them the rows that make these columns' inputs.
//!
//! GPTQ with act order quantises columns by importance, and a group is whatever columns came one after the other:
//! anywhere in the row. GGUF groups neighbouring columns and has no permutation of them. But the channels of a value
//! inside a transformer block can change places, if whatever makes them and whatever reads them follows ([`Movable`]);
//! and the rows of any matrix can change places, whatever groups their own columns are in. So the model computes the
//! same function, and every group is a run of columns.

use super::bind::Numbers;
use super::keep::{BLOCK, Surveyed, choose};
use super::{Edit, Edits, Gather, Side, Weights};
use crate::model::{Movable, ParamId, Reader, Site};

impl<'a> Weights<'a> {
    /// The permutations that put the columns of act-order matrices in the order of their groups, wherever the graph
    /// lets the rows that make their inputs go along and a block type then holds the integers. The model computes the
    /// same. Where that is not possible, [`Edits::left`] says why. Works on the checkpoint as it was bound; reads the
    /// scales and zeros of these matrices.
    pub fn sort_groups(&self) -> Edits {
        let mut edits = Edits::new();
        for site in self.graph.sites() {
            // What was cut has lost the checkpoint's groups anyway.
            let cut = site.readers.iter().any(|r| self.is_edited(r.weight));
            if cut || site.readers.iter().all(|r| matches!(self.group_order(*r), Ok(None))) {
                continue;
            }
            match self.sorted(&site) {
                Ok((lanes, order)) => self.reorder(&site, lanes, &order, &mut edits),
                Err(why) => site.readers.iter().for_each(|r| edits.leave(r.weight, why.clone())),
            }
        }
        edits
    }

    /// The group of every column of a reader, if groups are not runs of columns.
    fn group_order(&self, reader: Reader) -> Result<Option<&'a [u32]>, String> {
        let each = self.rows_of_each(reader.weight);
        let first = reader.expert.unwrap_or(0) * each;
        let mut orders = Vec::new();
        self.bound[reader.weight.0].for_each(first..first + each, |run, _, _| {
            orders.push(match run.numbers {
                Numbers::Packed(packed) => packed.order.as_deref(),
                Numbers::Stored(_) | Numbers::Sparse(_) => None,
            });
        });
        match orders.split_first() {
            Some((first, rest)) if rest.iter().all(|order| order == first) => Ok(*first),
            _ => Err("it is made of matrices whose groups are in different orders".to_owned()),
        }
    }

    /// In which order the rows that make a site's channels are to be, for every block of columns to be of one group.
    fn sorted<'s>(&self, site: &'s Site) -> Result<(&'s Movable, Vec<usize>), String> {
        let lanes = site.lanes.as_ref().map_err(Clone::clone)?;
        let order = self.group_order(site.readers[0])?;
        for reader in &site.readers {
            if self.group_order(*reader)? != order {
                let name = &self.graph.param(reader.weight).name;
                return Err(format!("{name} reads the same input but has its groups in another order"));
            }
            // Else they would be moved for nothing.
            let (surveyed, whole) = self.surveyed(reader.weight);
            let surveyed: Vec<_> = surveyed.into_iter().map(|s| Surveyed { runs: true, ..s }).collect();
            let kept = choose(&surveyed, None, None);
            if !whole || !kept.integers {
                return Err(kept.reason.unwrap_or_default());
            }
        }
        let groups = order.ok_or("its groups are already in order")?;
        let mut rows: Vec<usize> = (0..lanes.channels.rows()).collect();
        for run in rows.chunks_mut(lanes.channels.run()) {
            // Stable: within a group columns keep their order.
            run.sort_by_cached_key(|&row| lanes.channels.of(row).map(|c| groups[c]).collect::<Vec<_>>());
        }
        let cols = columns(lanes, &rows);
        if cols.chunks(BLOCK).all(|block| block.iter().all(|&c| groups[c] == groups[block[0]])) {
            return Ok((lanes, rows));
        }
        Err(match lanes.channels.run() < site.width {
            true => {
                format!(
                    "channels can move only within heads of {}, where groups do not fill whole blocks",
                    lanes.channels.run()
                )
            }
            false => format!("some groups have a number of columns that is not a multiple of {BLOCK}"),
        })
    }

    fn reorder(&self, site: &Site, lanes: &Movable, order: &[usize], edits: &mut Edits) {
        let list = |ids: Vec<ParamId>| {
            let mut names: Vec<&str> = ids.iter().map(|id| self.graph.param(*id).name.as_str()).collect();
            names.dedup();
            names.join(" and ")
        };
        let makers = list(lanes.makers.iter().map(|m| m.weight).collect());
        let readers = list(site.readers.iter().map(|r| r.weight).collect());
        let with_readers = format!("rows permuted with the columns of {readers}");
        for maker in &lanes.makers {
            let total = match maker.expert {
                Some(_) => self.rows_of_each(maker.weight),
                None => self.graph.param(maker.weight).rows(),
            };
            let mut from: Vec<u32> = (0..total as u32).collect();
            let at = maker.rows.start;
            from[at..].iter_mut().zip(order).for_each(|(to, row)| *to = (at + row) as u32);
            for (id, side) in [(maker.weight, Side::Rows)].into_iter().chain(maker.bias.map(|id| (id, Side::Cols))) {
                edits.push(id, maker.expert, Edit::Permute(Gather { side, from: from.clone() }));
                edits.explain(id, with_readers.clone());
            }
        }
        let from: Vec<u32> = columns(lanes, order).into_iter().map(|c| c as u32).collect();
        for reader in &site.readers {
            let cols = Gather { side: Side::Cols, from: from.clone() };
            edits.push(reader.weight, reader.expert, Edit::Permute(cols));
            edits.explain(reader.weight, format!("act order: columns permuted with the rows of {makers}"));
        }
    }
}

/// Which channel each of a site's channels was, if its rows are in this order.
fn columns(lanes: &Movable, order: &[usize]) -> Vec<usize> {
    let channels = lanes.channels;
    let mut cols = vec![0; channels.width()];
    for (to, &from) in order.iter().enumerate() {
        channels.of(to).zip(channels.of(from)).for_each(|(to, from)| cols[to] = from);
    }
    cols
}
