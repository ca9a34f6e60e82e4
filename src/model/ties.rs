//! Whether the output matrix is the embedding table: what config.json says, held against what the files have.

use serde_json::{Map, Value as Json};

use crate::checkpoint::config::HfConfig;
use crate::checkpoint::{TensorInfo, TensorSource};

/// The key of config.json.
pub(super) const KEY: &str = "tie_word_embeddings";

/// Ends of the names of embedding tables.
const TABLES: [&str; 2] = ["embed_tokens.weight", "wte.weight"];
/// And of output matrices.
const HEAD: [&str; 1] = ["lm_head.weight"];
/// All names that an output matrix may have.
pub(super) const HEADS: [&str; 2] = ["lm_head.weight", "language_model.lm_head.weight"];

/// The embedding table and the output matrix of a checkpoint, if it has both and their numbers differ.
pub(super) fn apart(source: &dyn TensorSource) -> Option<(&TensorInfo, &TensorInfo)> {
    let find = |ends: &[&str]| source.tensors().iter().find(|t| ends.iter().any(|end| ends_in(&t.name, end)));
    let (table, head) = (find(&TABLES)?, find(&HEAD)?);
    (!source.same_numbers(table, head)).then_some((table, head))
}

/// Whether a name is `end`, or has it as its last parts.
fn ends_in(name: &str, end: &str) -> bool {
    name.strip_suffix(end).is_some_and(|start| start.is_empty() || start.ends_with('.'))
}

/// The configuration of a model whose output matrix is one of its own.
pub(super) fn untied(config: &HfConfig) -> HfConfig {
    let mut config = config.clone();
    untie(&mut config.map);
    config
}

/// Says so in config.json.
pub(super) fn untie(map: &mut Map<String, Json>) {
    tie(map, false);
}

/// Says it wherever it is looked for.
pub(super) fn tie(map: &mut Map<String, Json>, tied: bool) {
    map.insert(KEY.to_owned(), Json::Bool(tied));
    if let Some(Json::Object(text)) = map.get_mut("text_config") {
        text.insert(KEY.to_owned(), Json::Bool(tied));
    }
}
