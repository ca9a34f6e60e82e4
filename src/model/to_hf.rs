//! The numbers of a model as config.json has them: the way back of [`super::from_hf`], for models that come from GGUF
//! files.
//!
//! Keys are spelled as releases of transformers before 5 spell them; later ones read them too.

use serde_json::{Map, Value as Json, json};

use super::rope::{self, yarn};
use super::{Hyper, RopeScaling};

/// Reads a small tensor of the model by name: factors of the rotary embedding.
pub type Small<'a> = &'a dyn Fn(&str) -> Option<Vec<f32>>;

/// config.json as it is being written.
pub(super) struct HfKeys<'a> {
    map: Map<String, Json>,
    small: Small<'a>,
}

/// A number with as few digits as tell it from all others.
fn number(x: f32) -> Json {
    x.to_string().parse::<f64>().map_or(Json::Null, Json::from)
}

/// Whether they are more than a rounding apart.
fn differ(a: f32, b: f32) -> bool {
    (a - b).abs() > 1e-6 * b
}

impl<'a> HfKeys<'a> {
    pub fn new(small: Small<'a>) -> Self {
        HfKeys { map: Map::new(), small }
    }

    pub fn finish(self) -> Map<String, Json> {
        self.map
    }

    /// The class of the model and the name of its kind.
    pub fn class(&mut self, class: &str, kind: &str) {
        self.set("architectures", json!([class]));
        self.set("model_type", kind);
    }

    /// Any key.
    pub fn set(&mut self, key: &str, value: impl Into<Json>) {
        self.map.insert(key.to_owned(), value.into());
    }

    /// A number, or null.
    pub fn number(&mut self, key: &str, value: Option<f32>) {
        self.set(key, value.map_or(Json::Null, number));
    }

    /// Sizes, norms, activation `act`, rotary embedding and ties, as nearly all spell them.
    pub fn usual(&mut self, h: &Hyper, act: &str) -> Result<(), String> {
        self.set("vocab_size", h.vocab);
        self.set("hidden_size", h.width);
        self.set("intermediate_size", h.ffn);
        self.set("num_hidden_layers", h.blocks);
        self.set("num_attention_heads", h.heads);
        self.set("num_key_value_heads", h.kv_heads);
        self.set("head_dim", h.head_dim);
        self.set("max_position_embeddings", h.context);
        self.set("hidden_act", act);
        self.number("rms_norm_eps", Some(h.norm_eps));
        self.set("tie_word_embeddings", h.tied);
        self.rope(h)
    }

    /// Biases, for those whose attention has one setting for all of its matrices.
    pub fn biases(&mut self, h: &Hyper) -> Result<(), String> {
        if h.qkv_bias != h.attn_out_bias {
            return Err("biases on only some attention matrices cannot be expressed in config.json".to_owned());
        }
        self.set("attention_bias", h.qkv_bias);
        self.set("mlp_bias", h.mlp_bias);
        Ok(())
    }

    fn rope(&mut self, h: &Hyper) -> Result<(), String> {
        self.number("rope_theta", Some(h.rope.base));
        let plain = !matches!(h.rope.scaling, RopeScaling::Yarn(_) | RopeScaling::Long { .. });
        if plain && differ(h.rope.magnitude, 1.0) {
            return Err(format!("rope.scaling.attn_factor {} cannot be said in config.json here", h.rope.magnitude));
        }
        let small = |name: &str| (self.small)(name).ok_or_else(|| format!("tensor {name} is missing"));
        let list = |name: &str| small(name).map(|list| Json::Array(list.into_iter().map(number).collect()));
        let scaling = match &h.rope.scaling {
            RopeScaling::None => Json::Null,
            RopeScaling::Linear(by) => json!({"rope_type": "linear", "factor": number(*by)}),
            RopeScaling::Yarn(yarn) => {
                let usual = yarn::magnitude(f64::from(yarn.factor), 1.0) as f32;
                let mut scaling = json!({
                    "rope_type": "yarn",
                    "factor": number(yarn.factor),
                    "original_max_position_embeddings": yarn.original_context,
                });
                let others = [
                    ("attention_factor", h.rope.magnitude, usual),
                    ("beta_fast", yarn.beta_fast, yarn::FAST),
                    ("beta_slow", yarn.beta_slow, yarn::SLOW),
                ];
                for (key, found, _) in others.into_iter().filter(|(_, found, usual)| differ(*found, *usual)) {
                    scaling[key] = number(found);
                }
                scaling
            }
            RopeScaling::Factors(_) => {
                let factors = small("rope_freqs.weight")?;
                let found = rope::llama3_settings(&factors, &h.rope);
                let [factor, low, high, original] =
                    found.ok_or("rope_freqs.weight does not hold Llama 3 rotary factors")?;
                json!({
                    "rope_type": "llama3",
                    "factor": factor,
                    "low_freq_factor": low,
                    "high_freq_factor": high,
                    "original_max_position_embeddings": original as u64,
                })
            }
            RopeScaling::Long { original_context, .. } => {
                let (short, long) = (list("rope_factors_short.weight")?, list("rope_factors_long.weight")?);
                self.set("original_max_position_embeddings", *original_context);
                let stretch = h.context as f64 / *original_context as f64;
                let usual = rope::long_magnitude(stretch, *original_context) as f32;
                let mut scaling = json!({"type": "longrope", "short_factor": short, "long_factor": long});
                if differ(h.rope.magnitude, usual) {
                    scaling["attention_factor"] = number(h.rope.magnitude);
                }
                scaling
            }
        };
        self.set("rope_scaling", scaling);
        Ok(())
    }
}
