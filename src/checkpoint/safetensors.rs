//! Hugging Face directories, and single safetensors files in them, as a source of tensors.
//!
//! In comes a path, out comes a [`TensorSource`] over all shards. Which files belong to the model is decided here;
//! what a file's header may say, in [`header`]. The folder is the boundary: an index can name no file outside it
//! (links inside it are followed, the Hugging Face cache is made of them).

mod dtype;
pub mod header;
mod index;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

pub(super) use dtype::PACKED;
pub use header::parse_header;
use index::Index;

use super::config::{Config, HfConfig, read_json_object};
use super::mapped::Mapped;
use super::mmap::Map;
use super::quantized;
use super::source::{SourceKind, TensorInfo, TensorSource, has_extension};
use super::sparse;
use crate::error::{Fault, printable};
use crate::{Error, Result};

/// The row of [`super::SOURCES`] for directories.
pub const DIRECTORY: SourceKind =
    SourceKind { name: "safetensors directory", matches: Path::is_dir, open: open_directory };

/// The row of [`super::SOURCES`] for single files.
pub const FILE: SourceKind = SourceKind {
    name: "safetensors file",
    matches: |path| !path.is_dir() && has_extension(path, "safetensors"),
    open: open_file,
};

/// What to do with the files of PyTorch.
pub(super) const NO_PICKLES: &str = "only safetensors are read, never pickles; save the model again with \
                                     save_pretrained(..., safe_serialization=True)";

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

fn open_directory(dir: &Path) -> Result<Box<dyn TensorSource>> {
    refuse_adapter(dir)?;
    let config = HfConfig::open(dir)?;
    let index_path = dir.join(INDEX);
    if exists(&index_path) {
        let index = Index::open(&index_path)?;
        let shards = index.shards(dir)?;
        let source = map_files(dir, config, shards)?;
        let promised = index.absent(source.tensors());
        return Ok(Box::new(adopt(source)?.promising(promised)));
    }
    let single = dir.join(SINGLE);
    if exists(&single) {
        return Ok(Box::new(adopt(map_files(dir, config, vec![single])?)?));
    }
    if let Some(shards) = numbered(dir)? {
        return Ok(Box::new(adopt(map_files(dir, config, shards)?)?));
    }
    Err(Error::missing(dir, vec![single], no_weights(dir)))
}

const ADAPTER: &str = "adapter_config.json";

/// A folder with an adapter and no model of its own is refused with the name of the model that it belongs to.
fn refuse_adapter(dir: &Path) -> Result<()> {
    let path = dir.join(ADAPTER);
    if !exists(&path) || [INDEX, SINGLE].iter().any(|name| exists(&dir.join(name))) || numbered(dir)?.is_some() {
        return Ok(());
    }
    let stated = read_json_object(&path)?;
    let text = |key: &str| stated.get(key).and_then(|v| v.as_str()).map(printable);
    let kind = text("peft_type").unwrap_or_else(|| "PEFT".to_owned());
    let base =
        text("base_model_name_or_path").map_or("its base model".to_owned(), |name| format!("{name}, its base model,"));
    let what = format!(
        "a {kind} adapter ({ADAPTER}), not a model; merge it into {base} first (PEFT's merge_and_unload, then \
         save_pretrained), and name the merged folder"
    );
    Err(Fault::unsupported(what).of(dir))
}

fn open_file(path: &Path) -> Result<Box<dyn TensorSource>> {
    let config = HfConfig::beside(super::directory_of(path))?;
    Ok(Box::new(adopt(map_files(path, config, vec![path.to_owned()])?)?))
}

/// Matrices that are stored as several tensors, put together.
fn adopt(source: Mapped) -> Result<Mapped> {
    sparse::hf::adopt(quantized::adopt(source)?)
}

/// Whether a name is taken, even if by a link that leads nowhere: that is then reported instead of skipped.
fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn map_files(path: &Path, config: HfConfig, files: Vec<PathBuf>) -> Result<Mapped> {
    let mut maps = Vec::with_capacity(files.len());
    let mut tensors: Vec<TensorInfo> = Vec::new();
    let mut owners: HashMap<String, usize> = HashMap::new();
    for (number, file) in files.iter().enumerate() {
        let map = Map::open(file)?;
        for mut tensor in parse_header(file, map.bytes())? {
            tensor.file = number;
            if let Some(other) = owners.insert(tensor.name.clone(), number) {
                let what = format!("is also in {}; a tensor may be in one file only", files[other].display());
                return Err(Fault::damaged(what).of_tensor(file, &tensor.name));
            }
            tensors.push(tensor);
        }
        maps.push(map);
    }
    Ok(Mapped::new(path, Config::HuggingFace(config), files, maps, tensors))
}

/// The files `PREFIX-00001-of-00003.safetensors` and so on of a directory whose index was left out, if there are such.
///
/// # Errors
/// If some of them are missing, or there are several sets.
fn numbered(dir: &Path) -> Result<Option<Vec<PathBuf>>> {
    let place = |name: &str| {
        let (prefix, count) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
        let (prefix, number) = prefix.rsplit_once('-')?;
        let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
        (digits(number) && digits(count)).then(|| (prefix.to_owned(), count.to_owned()))
    };
    let sets: BTreeSet<(String, String)> = names(dir).iter().filter_map(|name| place(name)).collect();
    let mut sets = sets.into_iter();
    let Some((prefix, count)) = sets.next() else { return Ok(None) };
    if let Some((other, others)) = sets.next() {
        let what = format!(
            "no {INDEX} says which files belong together: {prefix}-*-of-{count}.safetensors or \
             {other}-*-of-{others}.safetensors; download the index, or move one set away"
        );
        return Err(Fault::damaged(what).of(dir));
    }
    let all = count.parse::<u32>().unwrap_or(0);
    let files = (1..=all).map(|n| dir.join(format!("{prefix}-{n:05}-of-{count}.safetensors")));
    let (files, missing): (Vec<_>, Vec<_>) = files.partition(|file| exists(file));
    match missing.first() {
        None => Ok(Some(files)),
        Some(first) => {
            let name = printable(&first.file_name().unwrap_or_default().to_string_lossy());
            let more = if missing.len() > 1 { format!(" and {} more", missing.len() - 1) } else { String::new() };
            let what = format!("missing {name}{more} of {all} files; download what is missing");
            Err(Error::missing(dir, missing, what))
        }
    }
}

/// The names in a directory, sorted.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir);
    let mut names: Vec<String> = entries
        .map(|all| all.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    names.sort();
    names
}

/// What to say about a directory without weights that can be read: what was looked for, what is there, what to do.
fn no_weights(dir: &Path) -> String {
    let names = names(dir);
    let seen = |extensions: &[&str]| -> Vec<String> {
        let fits = |n: &&String| extensions.iter().any(|e| has_extension(Path::new(n), e));
        names.iter().filter(fits).take(5).map(|n| printable(n)).collect()
    };
    let mut text = format!("no {SINGLE} and no index found (looked for {INDEX} and {SINGLE})");
    for (extensions, advice) in [
        (&["safetensors"][..], "to use one of them, name that file itself"),
        (&["gguf"], "to use one of them, name that file itself"),
        (&["bin", "pt", "pth"], NO_PICKLES),
    ] {
        let files = seen(extensions);
        if !files.is_empty() {
            text.push_str(&format!("; found {}: {advice}", files.join(", ")));
        }
    }
    match text.contains(';') {
        true => text,
        false => text + "; download the weights too",
    }
}
