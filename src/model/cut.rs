//! A smaller model: which blocks stay, and how wide all of them are. What its files say of it follows from the same
//! numbers.

use serde_json::{Map, Value as Json, json};

use super::hyper::Whole;
use super::to_hf::HfKeys;
use super::{Arch, Hyper, Model, ParamId, RopeScaling};
use crate::gguf::{self, Metadata, Value};

/// What stays of a model. Widths are those of every block: most readers know only one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Smaller {
    /// The blocks, rising.
    pub blocks: Vec<usize>,
    /// Width inside the MLP (of one expert, for a mixture).
    pub ffn: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Experts of every block; zero without a mixture.
    pub experts: usize,
}

impl Smaller {
    /// Nothing goes.
    pub fn nothing(model: &Model) -> Smaller {
        let h = &model.hyper;
        Smaller {
            blocks: (0..h.blocks).collect(),
            ffn: h.ffn,
            heads: h.heads,
            kv_heads: h.kv_heads,
            experts: h.experts.as_ref().map_or(0, |e| e.count),
        }
    }
}

/// Every architecture whose readers learn all sizes from the file.
pub(super) fn any(_: &Hyper, _: &Hyper) -> Result<(), String> {
    Ok(())
}

/// Architectures whose heads fill the width of the residual stream, whatever the file says.
pub(super) fn same_heads(before: &Hyper, after: &Hyper) -> Result<(), String> {
    match before.heads == after.heads {
        true => Ok(()),
        false => Err("no heads can go: llama.cpp's matrices of this architecture have as many rows or columns of \
                      queries as the model is wide"
            .to_owned()),
    }
}

/// Every how many blocks windows repeat, if blocks differ in them.
pub(crate) fn period(h: &Hyper) -> Option<usize> {
    h.window.and(h.window_pattern).filter(|period| *period > 1)
}

impl Model {
    /// The model that is left, with names and shapes of its own.
    ///
    /// # Errors
    /// Why readers of its files would take it for another one.
    pub(crate) fn cut(&self, to: &Smaller) -> Result<Model, String> {
        let mut hyper = self.hyper.clone();
        (hyper.blocks, hyper.ffn, hyper.heads, hyper.kv_heads) = (to.blocks.len(), to.ffn, to.heads, to.kv_heads);
        hyper.experts.iter_mut().for_each(|e| e.count = to.experts);
        if let Some(period) = period(&hyper) {
            let full = |i: usize| i % period == period - 1;
            if let Some((now, before)) = to.blocks.iter().enumerate().find(|(now, before)| full(*now) != full(**before))
            {
                let kind = |full: bool| if full { "no window" } else { "a window" };
                return Err(format!(
                    "block {before}, which has {}, would become block {now}, which has {} for every reader: windows \
                     go by index and repeat every {period} blocks. Remove {period} blocks in a row, or so many that \
                     all later ones keep their kind",
                    kind(full(*before)),
                    kind(full(now)),
                ));
            }
        }
        (self.arch.cut)(&self.hyper, &hyper)?;
        let graph = (self.arch.graph)(&hyper);
        let whole = Some(Whole { hyper: self.hyper.clone(), blocks: to.blocks.clone() });
        Ok(Model { hyper, graph, whole, ..self.clone() })
    }

    /// Of a model that was [cut](Model::cut), which parameter of the whole one each of its parameters was.
    pub(crate) fn origins(&self, whole: &Model) -> Vec<ParamId> {
        let kept = self.whole.as_ref().map_or(&[][..], |whole| &whole.blocks);
        let stays = |block: Option<usize>| block.is_none_or(|block| kept.contains(&block));
        let all = whole.graph.params.iter().enumerate();
        all.filter(|(_, param)| stays(param.block)).map(|(i, _)| ParamId(i)).collect()
    }

    /// Sets the keys of a GGUF header right that are about what was cut.
    pub(crate) fn cut_header(&self, out: &mut Metadata) {
        let Some(whole) = &self.whole else { return };
        let (h, before) = (&self.hyper, &whole.hyper);
        let key = |key: &str| format!("{}.{key}", self.arch.gguf);
        let lists: Vec<(String, Value)> =
            out.iter().filter_map(|(name, value)| whole.list(self.arch, name, value)).collect();
        lists.into_iter().for_each(|(name, value)| out.set(name, value));
        let mut size = |name: &str, value: usize| {
            // No larger than what a checked configuration had.
            out.set(key(name), Value::U32(u32::try_from(value).expect("sizes fit 32 bits")));
        };
        size("block_count", h.blocks);
        if h.heads != before.heads {
            size("attention.head_count", h.heads);
            size("attention.head_count_kv", h.kv_heads);
            // By default, heads share the width among them.
            size("attention.key_length", h.head_dim);
            size("attention.value_length", h.head_dim);
            size("rope.dimension_count", h.rope.dims);
        }
        if let Some(experts) = &h.experts {
            size("expert_count", experts.count);
        }
        let of_experts = key("expert_feed_forward_length");
        let ffn = if out.get(&of_experts).is_some() { of_experts } else { key("feed_forward_length") };
        out.set(ffn, Value::U32(u32::try_from(h.ffn).expect("sizes fit 32 bits")));
    }

    /// Sets the keys of config.json right that are about what was cut.
    pub(super) fn cut_config(&self, map: &mut Map<String, Json>) {
        let Some(whole) = &self.whole else { return };
        let nested = map.get("text_config").is_some_and(Json::is_object);
        let map = match map.get_mut("text_config") {
            Some(Json::Object(text)) if nested => text,
            _ => map,
        };
        // Lists have an entry for every block.
        for value in map.values_mut() {
            if let Json::Array(list) = value
                && list.len() == whole.hyper.blocks
                && list.iter().all(Json::is_string)
            {
                *list = whole.blocks.iter().map(|i| list[*i].clone()).collect();
            }
        }
        let (before, after) = (keys(self.arch, &whole.hyper), keys(self.arch, &self.hyper));
        for (key, value) in after.into_iter().filter(|(key, value)| before.get(key) != Some(value)) {
            // Some have a second name for it.
            for other in ["num_experts", "num_local_experts"].into_iter().filter(|_| key.ends_with("_experts")) {
                if let Some(found) = map.get_mut(other) {
                    *found = value.clone();
                }
            }
            map.insert(key, value);
        }
        if whole.hyper.heads != self.hyper.heads {
            map.insert("head_dim".to_owned(), json!(self.hyper.head_dim));
        }
    }
}

impl Whole {
    /// A list of a header with an entry for every block, as it is without those that went.
    fn list(&self, arch: &Arch, name: &str, value: &Value) -> Option<(String, Value)> {
        let Value::Array(list) = value else { return None };
        let own = name.strip_prefix(arch.gguf).is_some_and(|rest| rest.starts_with('.'));
        let left = self.blocks.iter().map(|i| list.values.get(*i).cloned()).collect::<Option<Vec<_>>>()?;
        (own && list.values.len() == self.hyper.blocks).then(|| (name.to_owned(), gguf::array(list.element_type, left)))
    }
}

/// config.json of these numbers. What does not change is left to the checkpoint's own.
fn keys(arch: &Arch, hyper: &Hyper) -> Map<String, Json> {
    let mut hyper = hyper.clone();
    (hyper.rope.scaling, hyper.rope.magnitude) = (RopeScaling::None, 1.0);
    let mut keys = HfKeys::new(&|_| None);
    // What cannot be said there is about other things than sizes, and does not come from a config.json.
    let _ = (arch.config)(&hyper, &mut keys);
    keys.finish()
}
