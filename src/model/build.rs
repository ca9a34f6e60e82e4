//! The blocks that architectures are put together from: norms, projections, attention, MLPs, mixtures of experts.
//!
//! A [`Builder`] adds parameters, slots and ops together, so that a parameter's shape follows from the slots it stands
//! between and its names are spelled in one place. An architecture's file says only what comes after what.

use super::conventions::{Conventions, Linear};
use super::graph::{Activation, Import, LongFactors, ModelGraph, NormKind, Op, Param, ParamId, Part, Role, RopeStyle};
use super::{Hyper, RopeScaling, Slot};

/// Parameters, slots and ops under construction.
pub(super) struct Builder<'a> {
    pub h: &'a Hyper,
    to: Conventions,
    params: Vec<Param>,
    slots: Vec<usize>,
    known: Vec<(&'static str, Slot)>,
    ops: Vec<Op>,
    embed: Vec<Op>,
    blocks: Vec<Vec<Op>>,
    block: Option<usize>,
    table: Option<ParamId>,
    rope_factors: Option<ParamId>,
    rope_long: Option<LongFactors>,
    /// The residual stream.
    pub residual: Slot,
}

impl<'a> Builder<'a> {
    /// Starts with the embedding table, and the rotary factors if there are any.
    pub fn new(h: &'a Hyper, to: Conventions) -> Self {
        let mut b = Builder {
            h,
            to,
            params: Vec::new(),
            slots: vec![h.width],
            known: vec![("residual", Slot(0))],
            ops: Vec::new(),
            embed: Vec::new(),
            blocks: Vec::new(),
            block: None,
            table: None,
            rope_factors: None,
            rope_long: None,
            residual: Slot(0),
        };
        let table = b.weight(Role::Embedding, "token_embd.weight", to.embedding, &[h.vocab, h.width], Import::AsIs);
        b.table = Some(table);
        if h.tied {
            // A file may hold the one matrix under either name.
            b.params[table.0].parts[0].names.extend(to.head.iter().map(|&name| name.to_owned()));
        }
        b.ops.push(Op::Embed { table, out: b.residual, scale: h.embedding_scale.unwrap_or(1.0) });
        match &h.rope.scaling {
            RopeScaling::Factors(f) => b.rope_factors = Some(b.computed("rope_freqs.weight", f)),
            RopeScaling::Long { long, short, original_context, .. } => {
                let factors = b.computed("rope_factors_long.weight", long);
                b.rope_long = Some(LongFactors { factors, beyond: *original_context });
                b.rope_factors = Some(b.computed("rope_factors_short.weight", short));
            }
            RopeScaling::None | RopeScaling::Linear(_) | RopeScaling::Yarn(_) => {}
        }
        b
    }

    /// All spellings of a name within the block under construction.
    pub fn names(&self, stem: &str) -> Vec<String> {
        let layers = self.to.layers;
        let spell = |root: &&str| match self.block {
            Some(i) => format!("{root}{layers}.{i}.{stem}"),
            None => format!("{root}{stem}"),
        };
        self.to.roots.iter().map(spell).collect()
    }

    fn computed(&mut self, gguf: &str, values: &Option<Vec<f32>>) -> ParamId {
        let import = Import::Computed(values.clone().unwrap_or_default());
        self.add_param(Role::RopeFactors, gguf, &[self.h.rope.dims / 2], Vec::new(), import)
    }

    /// Adds a parameter of the block under construction.
    pub fn add_param(&mut self, role: Role, gguf: &str, shape: &[usize], parts: Vec<Part>, import: Import) -> ParamId {
        let name = match self.block {
            Some(i) => format!("blk.{i}.{gguf}"),
            None => gguf.to_owned(),
        };
        let (shape, alternatives) = (shape.to_vec(), Vec::new());
        self.params.push(Param { name, role, block: self.block, shape, parts, alternatives, import });
        ParamId(self.params.len() - 1)
    }

    /// Other ways to put the newest parameter together.
    pub fn alternatives(&mut self, alternatives: Vec<Vec<Part>>) {
        self.params.last_mut().expect("a parameter was added").alternatives = alternatives;
    }

    /// A parameter that is one whole tensor in the checkpoint.
    pub fn weight(&mut self, role: Role, gguf: &str, hf: &str, shape: &[usize], import: Import) -> ParamId {
        let mut stored = shape.to_vec();
        if import == Import::Transpose {
            stored.reverse();
        }
        let rows = shape[..shape.len() - 1].iter().product();
        let part = Part { names: self.names(hf), shape: stored, first_row: 0, rows };
        self.add_param(role, gguf, shape, vec![part], import)
    }

    /// The slot of that name; blocks share their slots.
    pub fn slot(&mut self, name: &'static str, width: usize) -> Slot {
        if let Some((_, slot)) = self.known.iter().find(|(n, _)| *n == name) {
            assert_eq!(self.slots[slot.0], width, "slot {name} has one width");
            return *slot;
        }
        self.slots.push(width);
        let slot = Slot(self.slots.len() - 1);
        self.known.push((name, slot));
        slot
    }

    /// Adds an op to the block under construction.
    pub fn op(&mut self, op: Op) {
        self.ops.push(op);
    }

    /// Ops from here on belong to block `i`.
    pub fn begin(&mut self, i: usize) {
        let ops = std::mem::take(&mut self.ops);
        match self.block {
            None => self.embed = ops,
            Some(_) => self.blocks.push(ops),
        }
        self.block = Some(i);
    }

    /// A norm of whole rows; its names are given without `.weight`.
    pub fn norm(&mut self, gguf: &str, hf: &str, x: Slot, out: &'static str) -> Slot {
        let out = self.slot(out, self.slots[x.0]);
        self.norm_to(gguf, hf, self.slots[x.0], x, out);
        out
    }

    /// A norm of every run of `width` numbers.
    pub fn norm_to(&mut self, gguf: &str, hf: &str, width: usize, x: Slot, out: Slot) {
        let import = if self.to.norm_less_one { Import::AddOne } else { Import::AsIs };
        let (w, v) = (format!("{gguf}.weight"), format!("{hf}.weight"));
        let weight = self.weight(Role::Norm, &w, &v, &[width], import);
        let bias = (self.to.norm == NormKind::Layer).then(|| {
            let (w, v) = (format!("{gguf}.bias"), format!("{hf}.bias"));
            self.weight(Role::Norm, &w, &v, &[width], Import::AsIs)
        });
        self.ops.push(Op::Norm { kind: self.to.norm, weight, bias, eps: self.h.norm_eps, x, out });
    }

    /// A projection of `x`.
    pub fn linear(&mut self, l: Linear, x: Slot, out: &'static str) -> Slot {
        let (cols, out) = (self.slots[x.0], self.slot(out, l.rows));
        let permute = l.rotary_heads.filter(|_| self.to.rope == RopeStyle::Interleaved);
        let bias_import = permute.map_or(Import::AsIs, |heads| Import::RopePermute { heads });
        let import = if self.to.transposed { Import::Transpose } else { bias_import.clone() };
        let (w, v) = (format!("{}.weight", l.gguf), format!("{}.weight", l.hf));
        let weight = self.weight(l.role, &w, &v, &[l.rows, cols], import);
        let bias = l.bias.then(|| {
            let (w, v) = (format!("{}.bias", l.gguf), format!("{}.bias", l.hf));
            self.weight(Role::Bias, &w, &v, &[l.rows], bias_import)
        });
        self.ops.push(Op::Linear { weight, bias, x, out, experts: None });
        out
    }

    /// Query, key and value from three matrices.
    pub fn qkv(&mut self, x: Slot) -> (Slot, Slot, Slot) {
        let h = self.h;
        let (q, kv) = (h.heads * h.head_dim, h.kv_heads * h.head_dim);
        let l = Linear::new(Role::AttnQ, "attn_q", "self_attn.q_proj", q, h.qkv_bias).rotary(h.heads);
        let q = self.linear(l, x, "q");
        let l = Linear::new(Role::AttnK, "attn_k", "self_attn.k_proj", kv, h.qkv_bias).rotary(h.kv_heads);
        let k = self.linear(l, x, "k");
        let l = Linear::new(Role::AttnV, "attn_v", "self_attn.v_proj", kv, h.qkv_bias);
        (q, k, self.linear(l, x, "v"))
    }

    /// Query, key and value from one matrix, in this order.
    pub fn fused_qkv(&mut self, x: Slot, hf: &'static str) -> (Slot, Slot, Slot) {
        let h = self.h;
        let (q, kv) = (h.heads * h.head_dim, h.kv_heads * h.head_dim);
        let l = Linear::new(Role::AttnQkv, "attn_qkv", hf, q + 2 * kv, h.qkv_bias);
        let x = self.linear(l, x, "qkv");
        let (q, k, v) = (self.slot("q", q), self.slot("k", kv), self.slot("v", kv));
        self.ops.push(Op::Split { x, parts: vec![q, k, v] });
        (q, k, v)
    }

    /// Norms of query and key, over each head or (`whole`) over the row.
    pub fn qk_norm(&mut self, q: Slot, k: Slot, whole: bool) {
        let width = |slot: Slot, b: &Self| if whole { b.slots[slot.0] } else { b.h.head_dim };
        self.norm_to("attn_q_norm", "self_attn.q_norm", width(q, self), q, q);
        self.norm_to("attn_k_norm", "self_attn.k_norm", width(k, self), k, k);
    }

    /// The window of the block under construction.
    pub fn window(&self) -> Option<usize> {
        let i = self.block.expect("inside a block");
        self.h.window.filter(|_| self.h.window_pattern.is_none_or(|p| i % p < p - 1))
    }

    /// Rotates queries and keys. Where windows have a base of their own, stretching is for the other blocks only.
    pub fn rope(&mut self, q: Slot, k: Slot) {
        let rope = &self.h.rope;
        let local = rope.window_base.filter(|_| self.window().is_some());
        let (linear, yarn) = match rope.scaling {
            RopeScaling::Linear(by) => (by, None),
            RopeScaling::Yarn(yarn) => (1.0, Some(yarn)),
            RopeScaling::None | RopeScaling::Factors(_) | RopeScaling::Long { .. } => (1.0, None),
        };
        for x in [q, k] {
            let mut op = Op::Rope {
                x,
                head_dim: self.h.head_dim,
                dims: rope.dims,
                style: self.to.rope,
                base: rope.base,
                linear,
                yarn,
                factors: self.rope_factors,
                long: self.rope_long,
                magnitude: rope.magnitude,
            };
            if let (Some(own), Op::Rope { base, linear, yarn, factors, long, magnitude, .. }) = (local, &mut op) {
                (*base, *linear, *yarn, *factors, *long, *magnitude) = (own, 1.0, None, None, None, 1.0);
            }
            self.ops.push(op);
        }
    }

    /// Attention and its output projection.
    pub fn attend(&mut self, (q, k, v): (Slot, Slot, Slot), hf: &'static str) -> Slot {
        let h = self.h;
        let out = self.slot("attended", h.heads * h.head_dim);
        let scale = h.attention_scale.unwrap_or(1.0 / (h.head_dim as f32).sqrt());
        let (heads, kv_heads, head_dim) = (h.heads, h.kv_heads, h.head_dim);
        let (softcap, window) = (h.attention_softcap, self.window());
        self.ops.push(Op::Attend { q, k, v, out, heads, kv_heads, head_dim, scale, softcap, window });
        self.linear(Linear::new(Role::AttnOut, "attn_output", hf, h.width, h.attn_out_bias), out, "attn_out")
    }

    /// down(act(gate(x)) * up(x)).
    pub fn gated_mlp(&mut self, x: Slot, act: Activation) -> Slot {
        let (ffn, bias) = (self.h.ffn, self.h.mlp_bias);
        let gate = self.linear(Linear::new(Role::FfnGate, "ffn_gate", "mlp.gate_proj", ffn, bias), x, "gate");
        let up = self.linear(Linear::new(Role::FfnUp, "ffn_up", "mlp.up_proj", ffn, bias), x, "up");
        self.gate_and_down(act, gate, up)
    }

    /// The second half of a gated MLP.
    pub fn gate_and_down(&mut self, act: Activation, gate: Slot, up: Slot) -> Slot {
        let out = self.slot("gated", self.h.ffn);
        self.ops.push(Op::Gate { act, gate, up, out });
        let down = Linear::new(Role::FfnDown, "ffn_down", "mlp.down_proj", self.h.width, self.h.mlp_bias);
        self.linear(down, out, "ffn_out")
    }

    /// Adds a branch to the residual stream.
    pub fn add(&mut self, branch: Slot) {
        let scale = self.h.residual_scale.unwrap_or(1.0);
        self.ops.push(Op::Add { a: self.residual, b: branch, scale, out: self.residual });
    }

    /// Ends the last block; final norm (checkpoint name without `.weight`), output matrix and what comes after it.
    pub fn finish(mut self, norm: &str) -> ModelGraph {
        let (h, to, residual) = (self.h, self.to, self.residual);
        let ops = std::mem::take(&mut self.ops);
        self.blocks.push(ops);
        self.block = None;
        let x = self.norm("output_norm", norm, residual, "final");
        let logits = self.slot("logits", h.vocab);
        let mut ignored = to.ignored.to_vec();
        let weight = if h.tied {
            ignored.push("lm_head.weight");
            self.table.expect("set from the start")
        } else {
            let names = to.head.iter().map(|&n| n.to_owned()).collect();
            let part = Part { names, shape: vec![h.vocab, h.width], first_row: 0, rows: h.vocab };
            self.add_param(Role::Output, "output.weight", &[h.vocab, h.width], vec![part], Import::AsIs)
        };
        self.ops.push(Op::Linear { weight, bias: None, x, out: logits, experts: None });
        if let Some(by) = h.logit_scale {
            self.ops.push(Op::Scale { x: logits, by: 1.0 / by });
        }
        if let Some(cap) = h.logit_softcap {
            self.ops.push(Op::Softcap { x: logits, cap });
        }
        ModelGraph {
            params: self.params,
            slots: self.slots,
            embed: self.embed,
            blocks: self.blocks,
            head: self.ops,
            residual,
            logits,
            ignored,
            ignored_starts: to.ignored_starts.to_vec(),
        }
    }
}
