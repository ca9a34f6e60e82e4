//! The ops of a model, executed one number at a time in f64: the slow twin of the runtime, for tests.

use aurora_quant::model::{Activation, ModelGraph, NormKind, Op, ParamId, RopeStyle, Slot, Yarn};

/// A slot's values: per token, one row (or one row per chosen expert).
type Rows = Vec<Vec<Vec<f64>>>;

struct Machine<'a> {
    graph: &'a ModelGraph,
    weights: &'a [Vec<f32>],
    tokens: &'a [usize],
    slots: Vec<Rows>,
    /// Per routing slot, token and choice: expert and weight.
    routes: Vec<Vec<Vec<(usize, f64)>>>,
}

/// Logits of every position. `weights`: one list of numbers per parameter, in canonical form.
pub fn logits(graph: &ModelGraph, weights: &[Vec<f32>], tokens: &[usize]) -> Vec<Vec<f64>> {
    let slots = vec![Vec::new(); graph.slots.len()];
    let routes = vec![Vec::new(); graph.slots.len()];
    let mut machine = Machine { graph, weights, tokens, slots, routes };
    let blocks = graph.blocks.iter().flatten();
    for op in graph.embed.iter().chain(blocks).chain(&graph.head) {
        machine.run(op);
    }
    machine.slots[graph.logits.0].iter().map(|t| t[0].clone()).collect()
}

impl Machine<'_> {
    fn row(&self, id: ParamId, row: usize) -> Vec<f64> {
        let cols = self.graph.param(id).cols();
        self.weights[id.0][row * cols..(row + 1) * cols].iter().map(|&x| f64::from(x)).collect()
    }

    fn get(&self, slot: Slot) -> &Rows {
        let rows = &self.slots[slot.0];
        assert_eq!(rows.len(), self.tokens.len(), "slot {} is written before it is read", slot.0);
        rows
    }

    fn set(&mut self, slot: Slot, rows: Rows) {
        assert!(rows.iter().flatten().all(|r| r.len() == self.graph.slots[slot.0]), "slot {} has its width", slot.0);
        self.slots[slot.0] = rows;
    }

    /// `f` of every row of `x` goes to `out`.
    fn map(&mut self, x: Slot, out: Slot, f: impl Fn(&[f64]) -> Vec<f64>) {
        let rows = self.get(x).iter().map(|t| t.iter().map(|r| f(r)).collect()).collect();
        self.set(out, rows);
    }

    /// `f` of every pair of numbers of `a` and `b` goes to `out`.
    fn zip(&mut self, a: Slot, b: Slot, out: Slot, f: impl Fn(f64, f64) -> f64) {
        let pair = |(x, y): (&Vec<f64>, &Vec<f64>)| x.iter().zip(y).map(|(&x, &y)| f(x, y)).collect::<Vec<_>>();
        let rows = self.get(a).iter().zip(self.get(b)).map(|(x, y)| x.iter().zip(y).map(pair).collect()).collect();
        self.set(out, rows);
    }

    fn run(&mut self, op: &Op) {
        match op {
            Op::Embed { table, out, scale } => {
                let row = |&t: &usize| vec![self.row(*table, t).iter().map(|x| x * f64::from(*scale)).collect()];
                let rows = self.tokens.iter().map(row).collect();
                self.set(*out, rows);
            }
            Op::AddPosition { table, x } => {
                for p in 0..self.tokens.len() {
                    let add = self.row(*table, p);
                    self.slots[x.0][p][0].iter_mut().zip(add).for_each(|(x, a)| *x += a);
                }
            }
            Op::Norm { kind, weight, bias, eps, x, out } => {
                let w = self.row(*weight, 0);
                let b = bias.map_or(vec![0.0; w.len()], |b| self.row(b, 0));
                let f = |run: &[f64]| norm(*kind, run, &w, &b, f64::from(*eps));
                self.map(*x, *out, |row| row.chunks(w.len()).flat_map(f).collect());
            }
            Op::Linear { weight, bias, x, out, experts } => self.linear(*weight, *bias, *x, *out, *experts),
            Op::Split { x, parts } => {
                let mut at = 0;
                for part in parts {
                    let width = self.graph.slots[part.0];
                    self.map(*x, *part, |row| row[at..at + width].to_vec());
                    at += width;
                }
                assert_eq!(at, self.graph.slots[x.0]);
            }
            Op::Rope { .. } => self.rope(op),
            Op::Attend { .. } => self.attend(op),
            Op::Gate { act, gate, up, out } => self.zip(*gate, *up, *out, |g, u| activate(*act, g) * u),
            Op::Act { act, x, out } => self.map(*x, *out, |row| row.iter().map(|&x| activate(*act, x)).collect()),
            Op::Add { a, b, scale, out } => self.zip(*a, *b, *out, |a, b| a + f64::from(*scale) * b),
            Op::Route { logits, out, used, normalize } => {
                let choose = |token: &Vec<Vec<f64>>| {
                    let p = softmax(&token[0]);
                    let mut best: Vec<(usize, f64)> = p.into_iter().enumerate().collect();
                    best.sort_by(|a, b| b.1.total_cmp(&a.1));
                    best.truncate(*used);
                    let sum: f64 = if *normalize { best.iter().map(|b| b.1).sum() } else { 1.0 };
                    best.iter().map(|&(e, p)| (e, p / sum)).collect()
                };
                self.routes[out.0] = self.get(*logits).iter().map(choose).collect();
            }
            Op::Combine { x, experts, out } => {
                let mut rows = Vec::new();
                for (token, route) in self.get(*x).iter().zip(&self.routes[experts.0]) {
                    let mut sum = vec![0.0; token[0].len()];
                    for (row, (_, weight)) in token.iter().zip(route) {
                        sum.iter_mut().zip(row).for_each(|(s, x)| *s += weight * x);
                    }
                    rows.push(vec![sum]);
                }
                self.set(*out, rows);
            }
            Op::Scale { x, by } => self.map(*x, *x, |row| row.iter().map(|x| x * f64::from(*by)).collect()),
            Op::Softcap { x, cap } => {
                self.map(*x, *x, |row| row.iter().map(|&x| softcap(x, f64::from(*cap))).collect());
            }
        }
    }

    fn linear(&mut self, weight: ParamId, bias: Option<ParamId>, x: Slot, out: Slot, experts: Option<Slot>) {
        let shape = &self.graph.param(weight).shape;
        let outs = shape[shape.len() - 2];
        let product = |expert: usize, x: &[f64]| -> Vec<f64> {
            let bias = bias.map(|b| self.row(b, expert));
            let one = |o: usize| {
                let w = self.row(weight, expert * outs + o);
                assert_eq!(w.len(), x.len());
                w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + bias.as_ref().map_or(0.0, |b| b[o])
            };
            (0..outs).map(one).collect()
        };
        let token = |(p, rows): (usize, &Vec<Vec<f64>>)| match experts {
            None => rows.iter().map(|r| product(0, r)).collect(),
            // What is computed before the first choice has one row for all choices.
            Some(route) => {
                let chosen = self.routes[route.0][p].iter().enumerate();
                chosen.map(|(i, (e, _))| product(*e, &rows[i.min(rows.len() - 1)])).collect()
            }
        };
        let rows = self.get(x).iter().enumerate().map(token).collect();
        self.set(out, rows);
    }

    fn rope(&mut self, op: &Op) {
        let Op::Rope { x, head_dim, dims, style, base, linear, yarn, factors, long, magnitude } = op else {
            unreachable!()
        };
        let factors = match long.filter(|l| self.tokens.len() > l.beyond) {
            Some(l) => Some(l.factors),
            None => *factors,
        };
        let factors = factors.map_or(vec![1.0; dims / 2], |f| self.row(f, 0));
        for p in 0..self.tokens.len() {
            for head in self.slots[x.0][p][0].chunks_mut(*head_dim) {
                for (i, factor) in factors.iter().enumerate() {
                    let frequency = f64::from(*base).powf(-((2 * i) as f64) / *dims as f64);
                    let frequency =
                        yarn.map_or(frequency, |yarn| stretched(&yarn, f64::from(*base), *dims, i, frequency));
                    let angle = p as f64 * frequency / f64::from(*linear) / factor;
                    let (a, b) = match style {
                        RopeStyle::Interleaved => (2 * i, 2 * i + 1),
                        RopeStyle::Halves => (i, i + dims / 2),
                    };
                    let (sin, cos) = (angle.sin() * f64::from(*magnitude), angle.cos() * f64::from(*magnitude));
                    (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
                }
            }
        }
    }

    fn attend(&mut self, op: &Op) {
        let Op::Attend { q, k, v, out, heads, kv_heads, head_dim, scale, softcap: cap, window } = op else {
            unreachable!()
        };
        let mut rows = Vec::new();
        for p in 0..self.tokens.len() {
            let first = window.map_or(0, |w| (p + 1).saturating_sub(w));
            let mut row = Vec::new();
            for head in 0..*heads {
                let at = head * head_dim..(head + 1) * head_dim;
                let kv = head / (heads / kv_heads);
                let kv = kv * head_dim..(kv + 1) * head_dim;
                let query = &self.get(*q)[p][0][at];
                let score = |t: usize| {
                    let key = &self.get(*k)[t][0][kv.clone()];
                    let s = query.iter().zip(key).map(|(a, b)| a * b).sum::<f64>() * f64::from(*scale);
                    cap.map_or(s, |c| softcap(s, f64::from(c)))
                };
                let weights = softmax(&(first..=p).map(score).collect::<Vec<_>>());
                let mut sum = vec![0.0; *head_dim];
                for (t, w) in (first..=p).zip(weights) {
                    sum.iter_mut().zip(&self.get(*v)[t][0][kv.clone()]).for_each(|(s, x)| *s += w * x);
                }
                row.extend(sum);
            }
            rows.push(vec![row]);
        }
        self.set(*out, rows);
    }
}

fn norm(kind: NormKind, x: &[f64], w: &[f64], b: &[f64], eps: f64) -> Vec<f64> {
    let n = x.len() as f64;
    let mean = match kind {
        NormKind::Rms => 0.0,
        NormKind::Layer => x.iter().sum::<f64>() / n,
    };
    let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
    let scale = 1.0 / (variance + eps).sqrt();
    x.iter().zip(w).zip(b).map(|((x, w), b)| (x - mean) * scale * w + b).collect()
}

fn activate(act: Activation, x: f64) -> f64 {
    match act {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
    }
}

fn softcap(x: f64, cap: f64) -> f64 {
    cap * (x / cap).tanh()
}

fn softmax(x: &[f64]) -> Vec<f64> {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exp: Vec<f64> = x.iter().map(|x| (x - max).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.iter().map(|e| e / sum).collect()
}

/// A frequency by the paper's words: as it is where it turns often enough, divided where it hardly turns.
fn stretched(yarn: &Yarn, base: f64, dims: usize, i: usize, frequency: f64) -> f64 {
    let place = |turns: f32| {
        let period = yarn.original_context as f64 / f64::from(turns);
        dims as f64 / 2.0 * (period / std::f64::consts::TAU).log(base)
    };
    let (mut low, mut high) = (place(yarn.beta_fast), place(yarn.beta_slow));
    if yarn.whole {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(dims as f64 - 1.0));
    let kept = match i as f64 {
        i if i <= low => 1.0,
        i if i >= high => 0.0,
        i => (high - i) / (high - low),
    };
    frequency * kept + frequency / f64::from(yarn.factor) * (1.0 - kept)
}
