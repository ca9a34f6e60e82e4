//! The header's keys: from config.json and the tokenizer files, or carried over from a GGUF input.

use aurora_quantizers::spec::Kind;

use crate::Result;
use crate::checkpoint::card::{self, ParamCounts};
use crate::checkpoint::{Config, TensorSource, embedding, tokenizer};
use crate::gguf::{self, Metadata, Value};
use crate::model::{Model, ModelGraph, Role};
use crate::plan::Plan;

/// ggml's version of the block formats' layouts.
const QUANTIZATION_VERSION: u32 = 2;

/// All keys of the output, and notes for the user.
///
/// # Errors
/// If the tokenizer files are missing, malformed or inconsistent with the embedding table.
pub fn metadata(
    source: &dyn TensorSource,
    model: &Model,
    plan: &Plan,
    pre: Option<&str>,
) -> Result<(Metadata, Vec<String>)> {
    let mut out = Metadata::new();
    let mut notes = Vec::new();
    match source.config() {
        Config::HuggingFace(config) => {
            let dir = config.path.parent().unwrap_or(&config.path);
            out.set("general.architecture", Value::String(model.arch.gguf.to_owned()));
            notes = card::general(dir, config, counts(&model.graph), &mut out);
            (model.arch.keys)(&model.hyper, config, &mut out);
            notes.extend(lost_window(model));
            let (pooling, remarks) = embedding::pooling(dir)?;
            if let Some(pooling) = pooling {
                out.set(format!("{}.pooling_type", model.arch.gguf), Value::U32(pooling as u32));
            }
            notes.extend(remarks);
            notes.extend(tokenizer::metadata(dir, config, vocabulary(&model.graph), pre, &mut out)?);
        }
        Config::Gguf(config) => {
            out = config.metadata.clone();
            notes.extend(vocabulary_key(model, &mut out));
            // It says how large the whole model was.
            out.retain(|key| model.whole.is_none() || key != "general.size_label");
            // They tell how matrices were rounded. Unless all are copied, that is no longer so.
            let mut blocks = plan.tensors.iter().filter(|t| t.spec().kind == Kind::Block).peekable();
            if blocks.peek().is_none() || blocks.any(|t| !t.carried) {
                out.retain(|key| !key.starts_with("quantize.imatrix."));
            }
        }
    }
    model.cut_header(&mut out);
    out.set("general.file_type", Value::U32(plan.file_type));
    out.set("general.quantization_version", Value::U32(QUANTIZATION_VERSION));
    Ok((out, notes))
}

/// Sets a `vocab_size` right that disagrees with the token list, which is what readers go by.
fn vocabulary_key(model: &Model, out: &mut Metadata) -> Option<String> {
    let (key, size) = (format!("{}.vocab_size", model.arch.gguf), model.hyper.vocab);
    let said = gguf::whole(out.get(&key)?)?;
    (said != size as u64).then(|| {
        out.set(key.clone(), Value::U32(size as u32));
        format!("{key} is {said}, but there are {size} tokens; {size} is written")
    })
}

/// Architectures that llama.cpp runs without a window: "llama", which Mistral's files are too, has none, and that of
/// Phi-3 is turned off.
const WINDOWLESS: [&str; 2] = ["llama", "phi3"];

/// A note on a window that llama.cpp does not have.
fn lost_window(model: &Model) -> Option<String> {
    let name = model.arch.gguf;
    let window = model.hyper.window.filter(|&w| w < model.hyper.context && WINDOWLESS.contains(&name))?;
    Some(format!(
        "sliding_window is {window}, but llama.cpp has no window for {name} files: beyond {window} tokens it attends \
         to more than Transformers does"
    ))
}

/// Rows of the embedding table.
fn vocabulary(graph: &ModelGraph) -> usize {
    graph.params.iter().find(|p| p.role == Role::Embedding).map_or(0, |p| p.shape[0])
}

/// Parameter counts for the size label. Expert parameters are counted once per expert.
fn counts(graph: &ModelGraph) -> ParamCounts {
    let mut counts = ParamCounts { total: 0, shared: 0, expert: 0, expert_count: 0 };
    for p in &graph.params {
        let n = p.len() as u64;
        counts.total += n;
        match p.shape[..] {
            [experts, _, _] => {
                counts.expert += n / experts as u64;
                counts.expert_count = experts as u64;
            }
            _ => counts.shared += n,
        }
    }
    counts
}
