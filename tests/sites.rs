//! The sites that are derived from the ops: against tables worked out by hand from the architectures, and by moving
//! factors along them, which must leave the logits as they are.

mod common;

use aurora_quant::model::{Model, ModelGraph, Movable, ParamId, Producer, Site, describe};
use common::canonical::{self, canonical};
use common::{MODELS, fixtures, hf_config, interpreter};

struct Fixture {
    model: Model,
    weights: Vec<Vec<f32>>,
}

fn open(name: &str) -> Fixture {
    let dir = fixtures().join("models").join(name);
    let tensors = canonical::load(&dir);
    let model = describe(&hf_config(&dir), &|name| tensors.contains_key(name)).unwrap();
    let weights = model.graph.params.iter().map(|p| canonical(p, &tensors)).collect();
    Fixture { model, weights }
}

/// "attn_q", "ffn_down_exps#3".
fn short(graph: &ModelGraph, id: ParamId, expert: Option<usize>) -> String {
    let param = graph.param(id);
    let name = param.block.map_or(&*param.name, |i| param.name.strip_prefix(&format!("blk.{i}.")).unwrap());
    let name = name.strip_suffix(".weight").unwrap_or(name);
    expert.map_or(name.to_owned(), |e| format!("{name}#{e}"))
}

/// "readers <- producer", the rows of a producer as a range.
fn line(graph: &ModelGraph, site: &Site) -> String {
    let readers: Vec<_> = site.readers.iter().map(|r| short(graph, r.weight, r.expert)).collect();
    let plus = |bias: &Option<ParamId>| bias.map_or(String::new(), |b| format!(" + {}", short(graph, b, None)));
    let producer = match &site.producer {
        Ok(Producer::Norm { weight, bias }) => format!("{}{}", short(graph, *weight, None), plus(bias)),
        Ok(Producer::Rows { weight, bias, expert, rows, .. }) => {
            format!("{}[{}..{}]{}", short(graph, *weight, *expert), rows.start, rows.end, plus(bias))
        }
        Err(reason) => format!("none: {reason}"),
    };
    format!("{} <- {producer}", readers.join(" "))
}

#[test]
fn every_model_has_the_sites_that_its_architecture_says() {
    for name in MODELS.iter() {
        let f = open(name);
        let graph = &f.model.graph;
        let sites = graph.sites();
        // Worked out by hand: a line for each site of a block, and one for the output's.
        let lines = std::fs::read_to_string(fixtures().join("models").join(name).join("sites.txt"));
        let lines = lines.unwrap_or_else(|e| panic!("{name}: no sites.txt: {e}"));
        let lines: Vec<&str> = lines.lines().collect();
        let (output, block) = lines.split_last().expect("lines");
        for i in 0..graph.blocks.len() {
            let found: Vec<_> = sites.iter().filter(|s| s.block == Some(i)).map(|s| line(graph, s)).collect();
            assert_eq!(found, block, "{name}, block {i}");
        }
        let found: Vec<_> = sites.iter().filter(|s| s.block.is_none()).map(|s| line(graph, s)).collect();
        assert_eq!(found, [*output], "{name}");
    }
}

/// Every matrix that something is multiplied with is read at one site, once.
#[test]
fn every_linear_reads_at_one_site() {
    for name in MODELS.iter() {
        let f = open(name);
        let graph = &f.model.graph;
        let mut readers: Vec<_> = graph.sites().iter().flat_map(|s| s.readers.clone()).collect();
        let matrices = graph.params.iter().enumerate().filter(|(_, p)| p.role.quantizable() && p.shape.len() > 1);
        for (i, param) in matrices {
            let all = readers.iter().filter(|r| r.weight == ParamId(i)).count();
            let wanted = match param.shape[..] {
                [experts, _, _] => experts,
                _ => usize::from(f.model.hyper.tied || param.name != "token_embd.weight"),
            };
            assert_eq!(all, wanted, "{name}: {}", param.name);
        }
        let before = readers.len();
        readers.sort_by_key(|r| (r.weight, r.expert));
        readers.dedup();
        assert_eq!(readers.len(), before, "{name}: a matrix reads twice");
    }
}

/// With a head of values for several query heads, its channel serves one channel of each.
#[test]
fn channels_of_values_follow_the_heads() {
    let f = open("tiny-llama3");
    let h = &f.model.hyper;
    assert!(h.heads > h.kv_heads, "this fixture groups its heads");
    let sites = f.model.graph.sites();
    let site = sites.iter().find(|s| line(&f.model.graph, s).starts_with("attn_output")).unwrap();
    let Ok(Producer::Rows { channels, .. }) = &site.producer else { panic!("values make it") };
    for c in 0..site.width {
        let (head, i) = (c / h.head_dim, c % h.head_dim);
        let row = head / (h.heads / h.kv_heads) * h.head_dim + i;
        assert!(channels.of(row).any(|of| of == c), "channel {c}");
    }
    assert_eq!(channels.groups().iter().map(Vec::len).sum::<usize>(), site.width);
}

/// A power of two for every group of channels: products with it are exact.
fn factor(group: usize) -> f32 {
    [0.5, 1.0, 4.0, 0.25, 2.0][group % 5]
}

/// Moves factors from every producer into its readers.
fn scale(graph: &ModelGraph, weights: &mut [Vec<f32>]) -> usize {
    let mut moved = 0;
    for site in graph.sites() {
        let Ok(producer) = &site.producer else { continue };
        moved += 1;
        let mut s = vec![0.0; site.width];
        for (group, channels) in producer.groups(site.width).iter().enumerate() {
            channels.iter().for_each(|&c| s[c] = factor(group));
        }
        assert!(s.iter().all(|s| *s > 0.0), "every channel is in a group");
        for reader in &site.readers {
            let param = graph.param(reader.weight);
            let cols = param.cols();
            assert_eq!(cols, site.width);
            let rows = param.shape[param.shape.len() - 2];
            let matrix = &mut weights[reader.weight.0][reader.expert.unwrap_or(0) * rows * cols..][..rows * cols];
            matrix.chunks_exact_mut(cols).for_each(|row| row.iter_mut().zip(&s).for_each(|(w, s)| *w *= s));
        }
        match producer {
            Producer::Norm { weight, bias } => {
                for id in std::iter::once(weight).chain(bias) {
                    weights[id.0].iter_mut().zip(&s).for_each(|(w, s)| *w /= s);
                }
            }
            Producer::Rows { weight, bias, expert, rows, channels } => {
                let param = graph.param(*weight);
                let all = param.shape[param.shape.len() - 2];
                for (row, channels) in rows.clone().zip(channels.groups()) {
                    let at = expert.unwrap_or(0) * all + row;
                    let by = s[channels[0]];
                    weights[weight.0][at * param.cols()..][..param.cols()].iter_mut().for_each(|w| *w /= by);
                    if let Some(bias) = bias {
                        weights[bias.0][at] /= by;
                    }
                }
            }
        }
    }
    moved
}

#[test]
fn factors_moved_along_the_sites_leave_the_logits() {
    for name in MODELS.iter() {
        let mut f = open(name);
        let vocab = f.model.hyper.vocab;
        let tokens: Vec<usize> = (0..12).map(|i| (i * 37 + 5) % vocab).collect();
        let before = interpreter::logits(&f.model.graph, &f.weights, &tokens);
        let moved = scale(&f.model.graph, &mut f.weights);
        assert!(moved >= 2 * f.model.graph.blocks.len(), "{name}: {moved} sites have a producer");
        let after = interpreter::logits(&f.model.graph, &f.weights, &tokens);
        for (a, b) in before.iter().flatten().zip(after.iter().flatten()) {
            // Powers of two change no digit of any product; the interpreter's f64 sums are of the same terms.
            assert!((a - b).abs() <= 1e-9 * (1.0 + a.abs()), "{name}: {a} {b}");
        }
    }
}

/// Lets the channels of every site change places: rows of what makes them, columns of what reads them.
fn permute(graph: &ModelGraph, weights: &mut [Vec<f32>]) -> usize {
    let mut moved = 0;
    for site in graph.sites() {
        let Ok(Movable { makers, channels }) = &site.lanes else { continue };
        moved += 1;
        // Backwards within a run (a head of values), from another place in every run.
        let (run, channels) = (channels.run(), channels.groups());
        let order: Vec<usize> = (0..channels.len()).map(|i| i / run * run + run - 1 - (i + i / run) % run).collect();
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..channels.len()), "all go somewhere");
        for maker in makers {
            let param = graph.param(maker.weight);
            let (cols, all) = (param.cols(), param.shape[param.shape.len() - 2]);
            let first = maker.expert.unwrap_or(0) * all + maker.rows.start;
            assert_eq!(maker.rows.len(), order.len());
            let mut sides = vec![(maker.weight, cols)];
            sides.extend(maker.bias.map(|bias| (bias, 1)));
            for (id, width) in sides {
                let values = &mut weights[id.0][first * width..][..order.len() * width];
                let before = values.to_vec();
                for (to, &from) in order.iter().enumerate() {
                    values[to * width..][..width].copy_from_slice(&before[from * width..][..width]);
                }
            }
        }
        for reader in &site.readers {
            let param = graph.param(reader.weight);
            let (cols, rows) = (param.cols(), param.shape[param.shape.len() - 2]);
            let matrix = &mut weights[reader.weight.0][reader.expert.unwrap_or(0) * rows * cols..][..rows * cols];
            for row in matrix.chunks_exact_mut(cols) {
                let before = row.to_vec();
                for (to, &from) in channels.iter().zip(&order) {
                    to.iter().zip(&channels[from]).for_each(|(&to, &from)| row[to] = before[from]);
                }
            }
        }
    }
    moved
}

#[test]
fn channels_that_change_places_leave_the_logits() {
    for name in MODELS.iter() {
        let mut f = open(name);
        let h = &f.model.hyper;
        let tokens: Vec<usize> = (0..12).map(|i| (i * 37 + 5) % h.vocab).collect();
        let before = interpreter::logits(&f.model.graph, &f.weights, &tokens);
        let moved = permute(&f.model.graph, &mut f.weights);
        // What attention makes, and what the MLP (of every expert) makes; through its activation too.
        let mlps = h.experts.as_ref().map_or(1, |e| e.count);
        assert_eq!(moved, (1 + mlps) * f.model.graph.blocks.len(), "{name}");
        let after = interpreter::logits(&f.model.graph, &f.weights, &tokens);
        for (a, b) in before.iter().flatten().zip(after.iter().flatten()) {
            assert!((a - b).abs() <= 1e-9 * (1.0 + a.abs()), "{name}: {a} {b}");
        }
    }
}
