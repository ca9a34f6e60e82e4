//! Who made the model and what it is called: the `general.*` keys of a GGUF.
//!
//! From README.md's front matter, config.json, generation_config.json and the directory's name, in that order; with
//! the heuristics of llama.cpp's gguf-py, so that files get the same names. Knows no tensors, only their counts.

mod name;
mod readme;

use std::path::{Component, Path};

use serde_json::{Map, Value as Json};

use self::name::{Name, title};
use self::readme::Node;
use super::config::HfConfig;
use super::{json, mmap};
use crate::gguf::{Metadata, Value, ValueType, array};

/// How many weights the file has.
#[derive(Debug, Clone, Copy, Default)]
pub struct ParamCounts {
    /// All of them.
    pub total: u64,
    /// Those outside experts.
    pub shared: u64,
    /// Those of one expert, over all layers.
    pub expert: u64,
    /// Experts per layer; 0 for dense models.
    pub expert_count: u64,
}

/// Keys of the card that become a key of the same meaning: where in GGUF, and the names it has in cards.
/// In file order; `general.size_label` comes between basename and license.
const TEXTS: &[(&str, &[&str])] = &[
    ("name", &["name", "model_name"]),
    ("author", &["author", "model_author", "model_creator"]),
    ("version", &["version", "model_version"]),
    ("organization", &["organization", "model_organization"]),
    ("finetune", &["finetune", "model_finetune"]),
    ("basename", &["basename", "model_basename", "model_type"]),
    ("description", &["description", "model_description"]),
    ("size_label", &["size_label", "model_size_label"]),
    ("license", &["license"]),
    ("license.name", &["license_name"]),
    ("license.link", &["license_link"]),
    ("source.url", &["url", "model_url"]),
    ("source.doi", &["doi", "model_doi"]),
    ("source.uuid", &["uuid", "model_uuid"]),
    ("source.repo_url", &["repo_url", "model_repo_url"]),
];

/// Writes `general.type`, `general.name`, `general.size_label` and whatever else the directory tells.
/// `general.architecture`, `general.file_type` and `general.quantization_version` are the exporter's.
///
/// Returns remarks (a card that cannot be read). Nothing here is an error: none of it can make the weights wrong.
pub fn general(dir: &Path, config: &HfConfig, params: ParamCounts, out: &mut Metadata) -> Vec<String> {
    let mut notes = Vec::new();
    let card = card(dir, &mut notes);
    out.set("general.type", Value::String("model".into()));
    sampling(dir, out);
    let names = names(dir, config, params.total);
    for (key, spellings) in TEXTS {
        let stated = spellings.iter().find_map(|s| card.get(s)).and_then(joined);
        let derived = || {
            names.iter().find_map(|n| match *key {
                "name" => Some(title(&n.full)).filter(|t| !t.is_empty()),
                "version" => n.version.clone(),
                "organization" => n.organization.as_deref().map(title),
                "finetune" => n.finetune.clone(),
                "basename" => n.basename.clone(),
                "size_label" => n.size_label.clone(),
                _ => None,
            })
        };
        let counted = || match *key {
            "size_label" if params.total > 0 => Some(size_label(params)),
            "name" => Some("model".to_owned()),
            _ => None,
        };
        if let Some(text) = stated.or_else(derived).or_else(counted) {
            out.set(format!("general.{key}"), Value::String(text));
        }
    }
    sources(&card, "base_model", &["base_model", "base_models", "base_model_sources"], params.total, out);
    sources(&card, "dataset", &["datasets", "dataset", "dataset_sources"], params.total, out);
    for (key, spellings) in [("tags", ["tags", "pipeline_tag"]), ("languages", ["languages", "language"])] {
        let items = spellings.iter().filter_map(|s| card.get(s)).flat_map(Node::items).filter_map(Node::text);
        let items: Vec<Value> = items.map(|t| Value::String(t.to_owned())).collect();
        if !items.is_empty() {
            out.set(format!("general.{key}"), array(ValueType::String, items));
        }
    }
    notes
}

/// A text, or several with commas.
fn joined(node: &Node) -> Option<String> {
    let texts: Vec<&str> = node.items().iter().filter_map(Node::text).collect();
    (!texts.is_empty()).then(|| texts.join(","))
}

fn card(dir: &Path, notes: &mut Vec<String>) -> Node {
    let path = dir.join("README.md");
    let read = match std::fs::metadata(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        _ => match mmap::read_whole(&path, 16 << 20) {
            Ok(bytes) => {
                readme::parse(&String::from_utf8_lossy(&bytes)).map_err(|e| format!("{}: {e}", path.display()))
            }
            Err(e) => Err(e.explain()),
        },
    };
    read.unwrap_or_else(|what| {
        notes.push(format!("{what}; ignored"));
        None
    })
    .unwrap_or(Node::Null)
}

/// Names to ask, the best first: config.json's `_name_or_path` if it is one, then the directory's.
fn names(dir: &Path, config: &HfConfig, total: u64) -> Vec<Name> {
    let stated = config.map.get("_name_or_path").and_then(Json::as_str);
    // More slashes make it a path on somebody's computer.
    let stated = stated.filter(|s| !s.is_empty() && s.matches('/').count() <= 1);
    stated.map(str::to_owned).into_iter().chain(directory_id(dir)).map(|id| name::parse(&id, total)).collect()
}

/// The directory's name; in the cache of huggingface_hub, where that is a commit's hash, the repository's ("org/name").
pub fn directory_id(dir: &Path) -> Option<String> {
    let absolute = match dir.components().next_back() {
        Some(Component::Normal(_)) => std::path::absolute(dir),
        // "." and "..": only the file system knows.
        _ => dir.canonicalize(),
    };
    let absolute = absolute.ok()?;
    let mut up = absolute.components().rev().filter_map(|c| match c {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    });
    let own = up.next()?;
    let (parent, grandparent) = (up.next(), up.next());
    if parent.as_deref() == Some("snapshots")
        && let Some(repository) = grandparent.as_deref().and_then(|g| g.strip_prefix("models--"))
    {
        return Some(repository.replacen("--", "/", 1));
    }
    Some(own)
}

/// Models or data that this one was made from.
fn sources(card: &Node, what: &str, spellings: &[&str], total: u64, out: &mut Metadata) {
    let Some(list) = spellings.iter().find_map(|s| card.get(s)) else { return };
    let items = list.items();
    out.set(format!("general.{what}.count"), Value::U32(items.len() as u32));
    for (i, item) in items.iter().enumerate() {
        let mut set = |key: &str, text: String| out.set(format!("general.{what}.{i}.{key}"), Value::String(text));
        match item {
            Node::Text(id) => {
                let url = ["http://", "https://", "ssh://"].iter().any(|s| id.starts_with(s));
                let hub = ["http://", "https://"].iter().find_map(|s| {
                    let id = id.strip_prefix(s)?.strip_prefix("huggingface.co/")?;
                    let (org, name) = id.split_once('/')?;
                    (!org.is_empty() && !name.is_empty() && !name.contains('/')).then_some(id)
                });
                if let Some(named) = if url { hub } else { Some(id.as_str()) } {
                    let n = name::parse(named, total);
                    if !n.full.is_empty() {
                        set("name", title(&n.full));
                    }
                    if let Some(version) = n.version {
                        set("version", version);
                    }
                    if let Some(org) = n.organization {
                        set("organization", title(&org));
                        if !url {
                            set("repo_url", format!("https://huggingface.co/{org}/{}", n.full));
                        }
                    }
                }
                if url {
                    set("repo_url", id.clone());
                }
            }
            Node::Map(_) => {
                let keys =
                    ["name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url"];
                for key in keys {
                    if let Some(text) = item.get(key).and_then(Node::text) {
                        set(key, text.to_owned());
                    }
                }
            }
            _ => {}
        }
    }
}

/// Sampling parameters that the authors recommend, from generation_config.json: GGUF key, names, whether a count.
const SAMPLING: &[(&str, &[&str], bool)] = &[
    ("top_k", &["top_k"], true),
    ("top_p", &["top_p"], false),
    ("min_p", &["min_p"], false),
    ("xtc_probability", &["xtc_probability"], false),
    ("xtc_threshold", &["xtc_threshold"], false),
    ("temp", &["temperature"], false),
    ("penalty_last_n", &["penalty_last_n"], true),
    ("penalty_repeat", &["penalty_repeat", "repetition_penalty"], false),
    ("mirostat", &["mirostat"], true),
    ("mirostat_tau", &["mirostat_tau"], false),
    ("mirostat_eta", &["mirostat_eta"], false),
];

fn sampling(dir: &Path, out: &mut Metadata) {
    // Many of these files are broken; nothing depends on them. A long one is no generation_config.json.
    let path = dir.join("generation_config.json");
    let Ok(bytes) = mmap::read_whole(&path, 1 << 20) else { return };
    let Ok(config) = json::parse::<Map<String, Json>>(&bytes) else { return };
    if let Some(sequence) = config.get("sequence").and_then(Json::as_str) {
        out.set("general.sampling.sequence", Value::String(sequence.to_owned()));
    }
    for (key, spellings, count) in SAMPLING {
        let Some(value) = spellings.iter().find_map(|s| config.get(*s).filter(|v| v.is_number())) else { continue };
        let number = match count {
            true => value.as_i64().and_then(|n| i32::try_from(n).ok()).map(Value::I32),
            false => value.as_f64().map(|x| x as f32).filter(|x| x.is_finite()).map(Value::F32),
        };
        if let Some(number) = number {
            out.set(format!("general.sampling.{key}"), number);
        }
    }
}

/// "1.3M", or "8x7B" for experts: at least two digits, as gguf-py rounds.
fn size_label(params: ParamCounts) -> String {
    match params.expert_count {
        0 => rounded(params.total),
        n => format!("{n}x{}", rounded(params.shared.saturating_add(params.expert))),
    }
}

fn rounded(count: u64) -> String {
    let count = count as f64;
    let (scaled, unit) = match count {
        n if n > 1e12 => (n * 1e-12, 'T'),
        n if n > 1e9 => (n * 1e-9, 'B'),
        n if n > 1e6 => (n * 1e-6, 'M'),
        n => (n * 1e-3, 'K'),
    };
    let whole = match scaled.round_ties_even() {
        0.0 => 0,
        n => n.to_string().len(),
    };
    format!("{scaled:.*}{unit}", 2usize.saturating_sub(whole))
}

#[cfg(test)]
mod tests;
