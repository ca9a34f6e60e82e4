//! The rows and columns that belong together: which edits a channel, a head or an expert takes along.

use std::collections::BTreeMap;

use super::sizes::{Heads, Sizes};
use crate::model::{Model, ModelGraph, Op, ParamId, Reader, Role, Site};
use crate::weights::{Edit, Edits, Gather, Side};
use crate::{Error, Result};

/// The sites of a block whose readers have one role.
pub(super) fn of_role(graph: &ModelGraph, sites: &[Site], block: usize, role: Role) -> Vec<Site> {
    let reads = |site: &&Site| site.readers.iter().any(|r| graph.param(r.weight).role == role);
    sites.iter().filter(|site| site.block == Some(block)).filter(reads).cloned().collect()
}

fn rows(from: Vec<u32>) -> Edit {
    Edit::Remove(Gather { side: Side::Rows, from })
}

fn cols(from: Vec<u32>) -> Edit {
    Edit::Remove(Gather { side: Side::Cols, from })
}

/// Keeps some channels of a site: columns of its readers, and whatever makes the others goes.
///
/// # Errors
/// If what makes them makes other things, too.
pub(super) fn channels(graph: &ModelGraph, site: &Site, keep: &[usize], edits: &mut Edits) -> Result<()> {
    let name = &graph.param(site.readers[0].weight).name;
    let lanes = site.lanes.as_ref().map_err(|why| Error::setting("remove", "ffn", format!("{name}: {why}")))?;
    let mut gone: BTreeMap<Reader, (Option<ParamId>, Vec<bool>)> = BTreeMap::new();
    for maker in &lanes.makers {
        let param = graph.param(maker.weight);
        let each = maker.expert.map_or(param.rows(), |_| param.rows() / param.shape[0]);
        let (_, rows) = gone
            .entry(Reader { weight: maker.weight, expert: maker.expert })
            .or_insert_with(|| (maker.bias, vec![false; each]));
        rows[maker.rows.clone()].fill(true);
        keep.iter().for_each(|channel| rows[maker.rows.start + channel] = false);
    }
    for (Reader { weight, expert }, (bias, gone)) in gone {
        let from: Vec<u32> = (0..gone.len() as u32).filter(|row| !gone[*row as usize]).collect();
        bias.into_iter().for_each(|bias| edits.push(bias, expert, cols(from.clone())));
        edits.push(weight, expert, rows(from));
    }
    let from: Vec<u32> = keep.iter().map(|channel| *channel as u32).collect();
    site.readers.iter().for_each(|r| edits.push(r.weight, r.expert, cols(from.clone())));
    Ok(())
}

/// Keeps some query heads and key-value heads of a block.
pub(super) fn heads(model: &Model, block: usize, (queries, groups): (&[usize], &[usize]), edits: &mut Edits) {
    let (graph, h) = (&model.graph, &model.hyper);
    let rows_of = |heads: &[usize], first: usize| -> Vec<u32> {
        let all = heads.iter().flat_map(|head| head * h.head_dim..(head + 1) * h.head_dim);
        all.map(|row| (first + row) as u32).collect()
    };
    let (q, kv) = (h.heads * h.head_dim, h.kv_heads * h.head_dim);
    for op in &graph.blocks[block] {
        let Op::Linear { weight, bias, .. } = op else { continue };
        let from = match graph.param(*weight).role {
            Role::AttnQ => rows_of(queries, 0),
            Role::AttnK | Role::AttnV => rows_of(groups, 0),
            Role::AttnQkv => [rows_of(queries, 0), rows_of(groups, q), rows_of(groups, q + kv)].concat(),
            Role::AttnOut => {
                edits.push(*weight, None, cols(rows_of(queries, 0)));
                continue;
            }
            _ => continue,
        };
        bias.iter().for_each(|bias| edits.push(*bias, None, cols(from.clone())));
        edits.push(*weight, None, rows(from));
    }
}

/// Keeps some experts of a block: rows of the router, and whole matrices. Comes after all other edits of these.
/// `heights`: rows of one expert's matrix, as those edits left it.
pub(super) fn experts(
    graph: &ModelGraph,
    block: usize,
    keep: &[usize],
    heights: &dyn Fn(ParamId) -> usize,
    edits: &mut Edits,
) {
    for op in &graph.blocks[block] {
        let Op::Linear { weight, experts, .. } = op else { continue };
        let param = graph.param(*weight);
        let each = match (experts, param.role) {
            (Some(_), _) => heights(*weight),
            (None, Role::Router) => 1,
            _ => continue,
        };
        let from = keep.iter().flat_map(|expert| expert * each..(expert + 1) * each).map(|row| row as u32);
        edits.push(*weight, None, rows(from.collect()));
    }
}

/// Rows of an expert's matrix once its channels are gone.
pub(super) fn heights(model: &Model, sizes: &Sizes) -> impl Fn(ParamId) -> usize {
    let ffn = sizes.cut.ffn;
    let down: Vec<usize> = model
        .graph
        .params
        .iter()
        .map(|p| if p.role == Role::FfnDown { p.shape[p.shape.len() - 2] } else { ffn })
        .collect();
    move |id| down[id.0]
}

/// The query heads and the groups that stay if these groups, or these queries of all groups, go.
pub(super) fn staying(model: &Model, gone: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let (h, each) = (&model.hyper, model.hyper.heads / model.hyper.kv_heads);
    let queries: Vec<usize> = (0..h.heads).filter(|head| !gone.contains(head)).collect();
    let groups = (0..h.kv_heads).filter(|group| queries.iter().any(|head| head / each == *group)).collect();
    (queries, groups)
}

/// The edits of a block as if the last channels, heads and experts went: shapes are what they will be.
///
/// # Errors
/// As [`channels`].
pub(super) fn placeholder(model: &Model, sites: &[Site], block: usize, sizes: &Sizes) -> Result<Edits> {
    let (graph, h, mut edits) = (&model.graph, &model.hyper, Edits::new());
    let each = h.heads / h.kv_heads;
    match sizes.heads {
        Heads::Stay => {}
        Heads::Groups(gone) => {
            let gone: Vec<usize> = ((h.kv_heads - gone) * each..h.heads).collect();
            let (queries, groups) = staying(model, &gone);
            heads(model, block, (&queries, &groups), &mut edits);
        }
        Heads::Queries(gone) => {
            let gone: Vec<usize> = (0..h.heads).filter(|head| head % each >= each - gone).collect();
            let (queries, groups) = staying(model, &gone);
            heads(model, block, (&queries, &groups), &mut edits);
        }
    }
    if sizes.cut.ffn < h.ffn {
        let keep: Vec<usize> = (0..sizes.cut.ffn).collect();
        for site in of_role(graph, sites, block, Role::FfnDown) {
            channels(graph, &site, &keep, &mut edits)?;
        }
    }
    if h.experts.as_ref().is_some_and(|e| sizes.cut.experts < e.count) {
        let keep: Vec<usize> = (0..sizes.cut.experts).collect();
        experts(graph, block, &keep, &heights(model, sizes), &mut edits);
    }
    Ok(edits)
}

/// How a branch reaches the residual stream from one of its matrices.
pub(super) struct Branch {
    /// The matrix.
    pub reader: Reader,
    /// Factor with which its output is added to the residual stream; `None` if something lies in between.
    pub scale: Option<f32>,
}

/// The branch of a block that ends in a matrix of this role; none if there are several matrices, as of experts.
pub(super) fn branch(graph: &ModelGraph, block: usize, role: Role) -> Option<Branch> {
    let ops = &graph.blocks[block];
    let (weight, made) = ops.iter().find_map(|op| match op {
        Op::Linear { weight, out, experts: None, .. } if graph.param(*weight).role == role => Some((*weight, *out)),
        _ => None,
    })?;
    let scale = ops.iter().find_map(|op| match op {
        Op::Add { a, b, scale, out } if *b == made && *a == graph.residual && *out == graph.residual => Some(*scale),
        _ => None,
    });
    Some(Branch { reader: Reader { weight, expert: None }, scale })
}
