//! The plain decoder that Llama, Mistral, Mixtral, Granite, Qwen 2 and Qwen 3 share: norm, attention, norm, MLP or
//! experts, each branch added to the residual stream.

use super::build::Builder;
use super::conventions::Conventions;
use super::graph::{Activation, Import, ModelGraph, Op, ParamId, Part, Role};
use super::{Experts, Hyper, Slot};

/// What checkpoints call the parts of a mixture of experts, within the block.
pub(super) struct ExpertNames {
    /// Routers, the usual name first.
    pub router: &'static [&'static str],
    /// What precedes the expert's number.
    pub list: &'static str,
    /// Gate, up and down after the number.
    pub each: [&'static str; 3],
}

/// How one of these models differs from Llama.
pub(super) struct Variant {
    /// Names and kinds.
    pub to: Conventions,
    /// Whether the heads of queries and keys are normed.
    pub qk_norm: bool,
    /// Names of experts, if it has them.
    pub experts: &'static ExpertNames,
}

/// The graph of such a model.
pub(super) fn graph(h: &Hyper, variant: &Variant) -> ModelGraph {
    let mut b = Builder::new(h, variant.to);
    for i in 0..h.blocks {
        b.begin(i);
        let x = b.norm("attn_norm", "input_layernorm", b.residual, "attn_in");
        let (q, k, v) = b.qkv(x);
        if variant.qk_norm {
            b.qk_norm(q, k, false);
        }
        b.rope(q, k);
        let y = b.attend((q, k, v), "self_attn.o_proj");
        b.add(y);
        let x = b.norm("ffn_norm", "post_attention_layernorm", b.residual, "ffn_in");
        let y = match &h.experts {
            Some(e) => experts(&mut b, e, variant.experts, x),
            None => b.gated_mlp(x, Activation::Silu),
        };
        b.add(y);
    }
    b.finish("norm")
}

fn experts(b: &mut Builder<'_>, e: &Experts, names: &ExpertNames, x: Slot) -> Slot {
    let (width, ffn) = (b.h.width, b.h.ffn);
    let spelled = names.router.iter().flat_map(|n| b.names(n)).collect();
    let part = Part { names: spelled, shape: vec![e.count, width], first_row: 0, rows: e.count };
    let shape = [e.count, width];
    let router = b.add_param(Role::Router, "ffn_gate_inp.weight", &shape, vec![part], Import::AsIs);
    let logits = b.slot("router", e.count);
    b.op(Op::Linear { weight: router, bias: None, x, out: logits, experts: None });
    let route = b.slot("route", e.used);
    b.op(Op::Route { logits, out: route, used: e.used, normalize: e.normalize });

    let fused = |b: &Builder<'_>, stem: &str| [b.names(stem), b.names(&format!("{stem}.weight"))].concat();
    // One tensor holds, expert by expert, the gate's rows and then the up branch's.
    let half = |b: &Builder<'_>, first: usize| -> Vec<Part> {
        let part = |i: usize| Part {
            names: fused(b, "mlp.experts.gate_up_proj"),
            shape: vec![e.count, 2 * ffn, width],
            first_row: i * 2 * ffn + first,
            rows: ffn,
        };
        (0..e.count).map(part).collect()
    };
    // MLX stacks each of the three by itself.
    let switch = |b: &Builder<'_>, which: usize, rows: usize, cols: usize| -> Vec<Part> {
        let parent = names.list.strip_suffix("experts").unwrap_or(names.list);
        let stem = ["gate_proj", "up_proj", "down_proj"][which];
        let (names, shape) = (b.names(&format!("{parent}switch_mlp.{stem}.weight")), vec![e.count, rows, cols]);
        vec![Part { names, shape, first_row: 0, rows: e.count * rows }]
    };
    let gate = stack(b, e, names, (Role::FfnGate, "ffn_gate_exps.weight", 0), [ffn, width]);
    b.alternatives(vec![half(b, 0), switch(b, 0, ffn, width)]);
    let up = stack(b, e, names, (Role::FfnUp, "ffn_up_exps.weight", 1), [ffn, width]);
    b.alternatives(vec![half(b, ffn), switch(b, 1, ffn, width)]);
    let down = stack(b, e, names, (Role::FfnDown, "ffn_down_exps.weight", 2), [width, ffn]);
    let spelled = fused(b, "mlp.experts.down_proj");
    let shape = vec![e.count, width, ffn];
    let fused = vec![Part { names: spelled, shape, first_row: 0, rows: e.count * width }];
    b.alternatives(vec![fused, switch(b, 2, width, ffn)]);

    let (gate_out, up_out) = (b.slot("gate", ffn), b.slot("up", ffn));
    let (gated, each, out) = (b.slot("gated", ffn), b.slot("expert_out", width), b.slot("ffn_out", width));
    b.op(Op::Linear { weight: gate, bias: None, x, out: gate_out, experts: Some(route) });
    b.op(Op::Linear { weight: up, bias: None, x, out: up_out, experts: Some(route) });
    b.op(Op::Gate { act: Activation::Silu, gate: gate_out, up: up_out, out: gated });
    b.op(Op::Linear { weight: down, bias: None, x: gated, out: each, experts: Some(route) });
    b.op(Op::Combine { x: each, experts: route, out });
    out
}

/// One matrix per expert, stacked.
fn stack(
    b: &mut Builder<'_>,
    e: &Experts,
    names: &ExpertNames,
    (role, gguf, which): (Role, &str, usize),
    [rows, cols]: [usize; 2],
) -> ParamId {
    let part = |i: usize| Part {
        names: b.names(&format!("{}.{i}.{}.weight", names.list, names.each[which])),
        shape: vec![rows, cols],
        first_row: 0,
        rows,
    };
    let parts = (0..e.count).map(part).collect();
    b.add_param(role, gguf, &[e.count, rows, cols], parts, Import::AsIs)
}
