//! The keys that a GGUF header has for (nearly) every architecture, in the order in which the reference converter
//! writes them.

use super::rope::yarn;
use super::{Hyper, RopeScaling};
use crate::gguf::{Metadata, Value};

/// Adds keys under one architecture's prefix.
pub(super) struct Keys<'a> {
    prefix: &'static str,
    to: &'a mut Metadata,
}

impl<'a> Keys<'a> {
    /// Keys go to `to` as `prefix.key`.
    pub fn new(prefix: &'static str, to: &'a mut Metadata) -> Self {
        Keys { prefix, to }
    }

    /// An unsigned integer.
    pub fn size(&mut self, key: &str, value: usize) {
        // Sizes come from keys that are checked to fit; see `opt_size`.
        let value = u32::try_from(value).expect("sizes fit 32 bits");
        self.to.set(format!("{}.{key}", self.prefix), Value::U32(value));
    }

    /// A number.
    pub fn number(&mut self, key: &str, value: f32) {
        self.to.set(format!("{}.{key}", self.prefix), Value::F32(value));
    }

    /// A string.
    pub fn text(&mut self, key: &str, value: &str) {
        self.to.set(format!("{}.{key}", self.prefix), Value::String(value.to_owned()));
    }

    /// Shape, attention, rotary embedding, norms and experts.
    pub fn usual(&mut self, h: &Hyper, ffn: usize) {
        self.size("block_count", h.blocks);
        self.size("context_length", h.context);
        self.size("embedding_length", h.width);
        self.size("feed_forward_length", ffn);
        self.size("attention.head_count", h.heads);
        self.size("attention.head_count_kv", h.kv_heads);
        self.rope_scaling(h);
        self.number("rope.freq_base", h.rope.base);
        if let Some(base) = h.rope.window_base {
            self.number("rope.freq_base_swa", base);
        }
        self.number("attention.layer_norm_rms_epsilon", h.norm_eps);
        if let Some(e) = &h.experts {
            self.size("expert_count", e.count);
            self.size("expert_used_count", e.used);
        }
    }

    /// How the rotary embedding is stretched.
    pub fn rope_scaling(&mut self, h: &Hyper) {
        let mut magnitude = h.rope.magnitude;
        match &h.rope.scaling {
            RopeScaling::None | RopeScaling::Factors(_) => {}
            RopeScaling::Linear(by) => {
                self.text("rope.scaling.type", "linear");
                self.number("rope.scaling.factor", *by);
            }
            RopeScaling::Yarn(yarn) => {
                self.text("rope.scaling.type", "yarn");
                self.number("rope.scaling.factor", yarn.factor);
                self.size("rope.scaling.original_context_length", yarn.original_context);
                // ggml multiplies by what is usual for the factor, whatever the file says; the rest is for the key.
                magnitude = (f64::from(magnitude) / yarn::magnitude(f64::from(yarn.factor), 1.0)) as f32;
            }
            RopeScaling::Long { original_context, .. } => {
                self.text("rope.scaling.type", "longrope");
                self.size("rope.scaling.original_context_length", *original_context);
            }
        }
        // One is what readers take where the key is absent; a rounding apart from it is one.
        if (magnitude - 1.0).abs() > 1e-6 {
            self.number("rope.scaling.attn_factor", magnitude);
        }
    }

    /// Numbers per head.
    pub fn head_dim(&mut self, h: &Hyper) {
        self.size("attention.key_length", h.head_dim);
        self.size("attention.value_length", h.head_dim);
    }
}
