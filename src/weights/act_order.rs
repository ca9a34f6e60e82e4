//! Act order undone: columns put in the order of their groups, and with them the rows that make these columns' inputs.
//!
//! GPTQ with act order quantises columns by importance, and a group is whatever columns came one after the other: anywhere in
//! the row. GGUF has blocks of neighbours and no permutation of columns. But the channels of a value inside a block of the
//! model can change places, if all that makes them and all that reads them go along ([`Lanes`]); rows of any matrix can
//! change places, whatever their own columns' groups are. So the model computes what it computed, and the columns' groups
//! are runs.

use std::ops::Range;

use super::keep::{BLOCK, Part, choose};
use super::{Numbers, Run, Weights, halved};
use crate::checkpoint::Packed;
use crate::model::{Import, Lanes, ParamId, Reader, Role, Site};

/// How rows and columns of one parameter changed places.
#[derive(Debug, Clone, Default)]
pub(super) struct Moves {
    /// Row r is what was row `rows[r]`, counted over all outer dimensions; empty if all are where they were.
    pub(super) rows: Vec<u32>,
    /// Column c of the matrix (of each expert), or element c of the bias, is what was `cols[expert][c]`; empty likewise.
    pub(super) cols: Vec<Vec<u32>>,
    /// With what they moved.
    with: Option<String>,
    /// Why columns could not.
    pub(super) stuck: Option<String>,
}

impl Moves {
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.cols.is_empty()
    }

    /// The columns of an expert's matrix, if they moved.
    pub(super) fn cols_of(&self, expert: usize) -> Option<&[u32]> {
        self.cols.get(expert).map(Vec::as_slice).filter(|cols| !cols.is_empty())
    }

    fn set_cols(&mut self, expert: usize, at: usize, width: usize, from: impl Iterator<Item = usize>) {
        if self.cols.len() <= expert {
            self.cols.resize(expert + 1, Vec::new());
        }
        set(&mut self.cols[expert], at, width, from);
    }
}

/// Entries from `at` on of a permutation of `length`, which is the identity where nothing was set.
fn set(all: &mut Vec<u32>, at: usize, length: usize, from: impl Iterator<Item = usize>) {
    if all.is_empty() {
        all.extend((0..length).map(|i| i as u32));
    }
    all[at..].iter_mut().zip(from).for_each(|(to, from)| *to = from as u32);
}

/// Rows of one packed tensor and of one expert.
pub(super) struct Piece<'w, 'a> {
    pub(super) packed: &'a Packed,
    pub(super) expert: usize,
    /// As the tensor counts them.
    pub(super) rows: Vec<usize>,
    run: &'w Run<'a>,
}

impl<'a> Weights<'a> {
    /// Puts columns of matrices with act order in the order of their groups wherever the graph lets the rows that make
    /// their inputs go along, and a block type then holds the integers. From then on everything here sees the
    /// parameters so; the model computes the same. Reads the scales and zeros of these matrices.
    pub fn sort_groups(&mut self) {
        for site in self.graph.sites() {
            if site.readers.iter().all(|r| matches!(self.group_order(*r), Ok(None))) {
                continue;
            }
            match self.sorted(&site) {
                Ok((lanes, order)) => self.reorder(&site, lanes, &order),
                Err(why) => site.readers.iter().for_each(|r| self.moves[r.weight.0].stuck = Some(why.clone())),
            }
        }
    }

    /// How rows or columns of a parameter have changed places, in words; `None` if they have not.
    pub fn reordered(&self, id: ParamId) -> Option<&str> {
        self.moves[id.0].with.as_deref()
    }

    /// The packed tensors behind canonical rows of a parameter that has no others, neighbours of one tensor together.
    pub(super) fn gather(&self, id: ParamId, rows: Range<usize>) -> Vec<Piece<'_, 'a>> {
        let (param, bound, moves) = (self.graph.param(id), &self.bound[id.0], &self.moves[id.0]);
        let each = self.rows_of_each(id);
        let mut pieces: Vec<Piece<'_, 'a>> = Vec::new();
        for row in rows {
            let row = moves.rows.get(row).map_or(row, |&from| from as usize);
            let mut start = 0;
            let run = bound.runs.iter().find(|run| {
                start += run.rows;
                row < start
            });
            let run = run.expect("a row of the parameter");
            let Numbers::Packed(packed) = run.numbers else { unreachable!("{}: not all is packed", param.name) };
            let stored = match bound.import {
                Import::RopePermute { heads } => halved(row, param.rows() / heads),
                _ => row - (start - run.rows),
            };
            let (stored, expert) = (run.first_row + stored, row / each);
            match pieces.last_mut() {
                Some(last) if std::ptr::eq(last.run, run) && last.expert == expert => last.rows.push(stored),
                _ => pieces.push(Piece { packed, expert, rows: vec![stored], run }),
            }
        }
        pieces
    }

    /// Rows of a parameter that belong together: of one expert's matrix, if it has several; of a bias one.
    pub(super) fn rows_of_each(&self, id: ParamId) -> usize {
        let param = self.graph.param(id);
        match param.shape[..] {
            _ if param.role == Role::Bias => 1,
            [_, rows, _] => rows,
            _ => param.rows(),
        }
    }

    /// The group of every column of a reader, if groups are not runs of columns.
    fn group_order(&self, reader: Reader) -> Result<Option<&'a [u32]>, String> {
        let each = self.rows_of_each(reader.weight);
        let first = reader.expert.unwrap_or(0) * each;
        let mut orders = Vec::new();
        self.bound[reader.weight.0].for_each(first..first + each, |run, _, _| {
            orders.push(match run.numbers {
                Numbers::Packed(packed) => packed.order.as_deref(),
                Numbers::Stored(_) => None,
            });
        });
        match orders.split_first() {
            Some((first, rest)) if rest.iter().all(|order| order == first) => Ok(*first),
            _ => Err("it is made of matrices that have their groups in different orders".to_owned()),
        }
    }

    /// In which order the rows that make a site's channels are to be, for every block of columns to be of one group.
    fn sorted<'s>(&self, site: &'s Site) -> Result<(&'s Lanes, Vec<usize>), String> {
        let lanes = site.lanes.as_ref().map_err(Clone::clone)?;
        let order = self.group_order(site.readers[0])?;
        for reader in &site.readers {
            if self.group_order(*reader)? != order {
                let name = &self.graph.param(reader.weight).name;
                return Err(format!("{name} reads the same input, and has its groups in another order"));
            }
            // Else they would be moved for nothing.
            let (parts, whole) = self.parts(reader.weight);
            let parts: Vec<_> = parts.into_iter().map(|part| Part { sorted: true, ..part }).collect();
            let kept = choose(&parts, None);
            if !whole || !kept.integers {
                return Err(kept.reason.unwrap_or_default());
            }
        }
        let groups = order.ok_or("its groups are in order")?;
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
                    "within heads of {}, where alone channels can change places, groups fill no blocks",
                    lanes.channels.run()
                )
            }
            false => format!("groups have numbers of columns that are no multiples of {BLOCK}"),
        })
    }

    fn reorder(&mut self, site: &Site, lanes: &Lanes, order: &[usize]) {
        let list = |ids: Vec<ParamId>| {
            let mut names: Vec<&str> = ids.iter().map(|id| self.graph.param(*id).name.as_str()).collect();
            names.dedup();
            names.join(" and ")
        };
        let makers = list(lanes.makers.iter().map(|m| m.weight).collect());
        let readers = list(site.readers.iter().map(|r| r.weight).collect());
        let with_readers = format!("rows permuted with the columns of {readers}");
        for maker in &lanes.makers {
            let (expert, all) = (maker.expert.unwrap_or(0), self.rows_of_each(maker.weight));
            let at = maker.rows.start;
            let total = self.graph.param(maker.weight).rows();
            let moves = &mut self.moves[maker.weight.0];
            let first = expert * all + at;
            set(&mut moves.rows, first, total, order.iter().map(|row| first + row));
            moves.with = Some(with_readers.clone());
            if let Some(bias) = maker.bias {
                let moves = &mut self.moves[bias.0];
                moves.set_cols(expert, at, all, order.iter().map(|row| at + row));
                moves.with = Some(with_readers.clone());
            }
        }
        let cols = columns(lanes, order);
        for reader in &site.readers {
            let moves = &mut self.moves[reader.weight.0];
            moves.set_cols(reader.expert.unwrap_or(0), 0, site.width, cols.iter().copied());
            moves.with = Some(format!("act order: columns permuted with the rows of {makers}"));
        }
    }

    /// Puts the columns of rows from `first` on, as they were, where they are now.
    pub(super) fn move_columns(&self, id: ParamId, first: usize, values: &mut [f32]) {
        let moves = &self.moves[id.0];
        if moves.cols.is_empty() {
            return;
        }
        let (cols, each) = (self.graph.param(id).cols(), self.rows_of_each(id));
        let mut before = vec![0.0; cols];
        for (i, row) in values.chunks_exact_mut(cols).enumerate() {
            if let Some(from) = moves.cols_of((first + i) / each) {
                before.copy_from_slice(row);
                row.iter_mut().zip(from).for_each(|(to, &from)| *to = before[from as usize]);
            }
        }
    }
}

/// Which channel each of a site's channels was, if its rows are in this order.
fn columns(lanes: &Lanes, order: &[usize]) -> Vec<usize> {
    let channels = lanes.channels;
    let mut cols = vec![0; channels.width()];
    for (to, &from) in order.iter().enumerate() {
        channels.of(to).zip(channels.of(from)).for_each(|(to, from)| cols[to] = from);
    }
    cols
}
