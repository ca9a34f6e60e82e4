//! config.json of the output: the checkpoint's own without its quantisation, or one made from a GGUF file's keys along
//! with the tokenizer and generation files.

use serde_json::{Map as JsonMap, Value as Json, json};

use super::super::Contents;
use super::super::shards::Entry;
use crate::checkpoint::config::{GgufConfig, HfConfig};
use crate::model::Model;
use crate::text::tokenizer;
use crate::{Result, model};

/// Keys that say how a checkpoint is quantised.
const QUANTISED: [&str; 2] = ["quantization_config", "compression_config"];

/// Spellings of the key for the type in which the model is loaded. The old one, which every version reads, comes first.
const DTYPES: [&str; 2] = ["torch_dtype", "dtype"];

/// The configuration. `dtype`: the type in which the model should be loaded, if it differs from before.
pub(super) fn of_checkpoint(config: &HfConfig, model: &Model, dtype: Option<&str>) -> Json {
    let mut map = model.config_of(config);
    adapt(&mut map, dtype, true);
    if let Some(Json::Object(text)) = map.get_mut("text_config") {
        adapt(text, dtype, false);
    }
    Json::Object(map)
}

fn adapt(map: &mut JsonMap<String, Json>, dtype: Option<&str>, insert: bool) {
    QUANTISED.iter().for_each(|key| {
        map.shift_remove(*key);
    });
    let Some(dtype) = dtype else { return };
    let known: Vec<&str> = DTYPES.into_iter().filter(|key| map.contains_key(*key)).collect();
    let keys = if known.is_empty() && insert { vec![DTYPES[0]] } else { known };
    keys.into_iter().for_each(|key| {
        map.insert(key.to_owned(), json!(dtype));
    });
}

/// Newly made files besides the tensors, by name.
pub(super) type Files = Vec<(&'static str, Json)>;

/// The files for a GGUF input, and notes for the user.
///
/// # Errors
/// If its settings cannot be expressed in config.json.
pub(super) fn of_gguf(config: &GgufConfig, contents: Contents<'_>, dtype: &str) -> Result<(Files, Vec<String>)> {
    let Contents { model, weights, .. } = contents;
    let small = |name: &str| {
        let id = (0..model.graph.params.len()).map(model::ParamId).find(|id| model.graph.param(*id).name == name)?;
        Some(weights.whole(id).into_raw_vec_and_offset().0)
    };
    let map = model::hf_config(model, &small);
    let mut map =
        map.map_err(|what| config.unsupported("general.architecture", format!("`format` safetensors: {what}")))?;
    map.insert(DTYPES[0].to_owned(), json!(dtype));
    let mut notes = vec![
        "config.json and the tokenizer are made from the GGUF file's keys, which do not say how text is normalised, \
         how to sample, or how the model was trained"
            .to_owned(),
    ];
    if config.metadata.get(&format!("{}.pooling_type", model.arch.gguf)).is_some() {
        notes.push("how the file pools tokens into embeddings (pooling_type) is not carried over".to_owned());
    }
    let mut files = Files::new();
    match tokenizer::restored(&config.path, &config.metadata) {
        Err(e) => notes.push(format!("no tokenizer is written: {}", e.explain())),
        Ok(mut restored) => {
            let ends = match restored.ends[..] {
                [one] => json!(one),
                [] => Json::Null,
                ref many => json!(many),
            };
            map.insert("bos_token_id".to_owned(), json!(restored.bos));
            map.insert("eos_token_id".to_owned(), json!(restored.eos));
            map.insert("pad_token_id".to_owned(), json!(restored.pad));
            restored.config.insert("model_max_length".to_owned(), json!(model.hyper.context));
            let generation = json!({
                "bos_token_id": restored.bos,
                "eos_token_id": ends,
                "pad_token_id": restored.pad,
            });
            files.push(("generation_config.json", generation));
            files.push(("tokenizer.json", restored.tokenizer));
            files.push(("tokenizer_config.json", Json::Object(restored.config)));
        }
    }
    files.push(("config.json", Json::Object(map)));
    Ok((files, notes))
}

/// The type of most elements, as PyTorch spells it.
pub(super) fn dtype<'e>(entries: impl Iterator<Item = &'e Entry>) -> &'static str {
    let mut sizes = [("BF16", "bfloat16", 0), ("F16", "float16", 0), ("F32", "float32", 0)];
    for entry in entries {
        let of = sizes.iter_mut().find(|(dtype, ..)| *dtype == entry.dtype);
        of.into_iter().for_each(|(.., size)| *size += entry.shape.iter().product::<usize>());
    }
    sizes.into_iter().max_by_key(|(.., size)| *size).map_or("float32", |(_, name, _)| name)
}
