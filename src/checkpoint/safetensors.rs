//! Hugging Face directories, and single safetensors files in them, as a source of tensors.
//!
//! In comes a path, out comes a [`TensorSource`] over all shards. Which files belong to the model is decided here;
//! what a file's header may say, in [`header`]. The folder is the boundary: an index can name no file outside it
//! (links inside it are followed, the Hugging Face cache is made of them).

mod dtype;
pub mod header;
mod index;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

pub(super) use dtype::PACKED;
pub use header::parse_header;
use index::Index;

use super::config::{Config, HfConfig};
use super::mapped::Mapped;
use super::mmap::Map;
use super::quantized;
use super::source::{SourceKind, TensorInfo, TensorSource, has_extension};
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

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

fn open_directory(dir: &Path) -> Result<Box<dyn TensorSource>> {
    let config = HfConfig::open(dir)?;
    let index_path = dir.join(INDEX);
    if exists(&index_path) {
        let index = Index::open(&index_path)?;
        let shards = index.shards(dir)?;
        let source = map_files(dir, config, shards)?;
        index.require_all(source.tensors())?;
        return Ok(Box::new(quantized::adopt(source)?));
    }
    let single = dir.join(SINGLE);
    if exists(&single) {
        return Ok(Box::new(quantized::adopt(map_files(dir, config, vec![single])?)?));
    }
    Err(Error::missing(dir, vec![single], no_weights(dir)))
}

fn open_file(path: &Path) -> Result<Box<dyn TensorSource>> {
    let config = HfConfig::beside(super::directory_of(path))?;
    Ok(Box::new(quantized::adopt(map_files(path, config, vec![path.to_owned()])?)?))
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

/// What to say about a directory without weights that can be read: what was looked for, what is there, what to do.
fn no_weights(dir: &Path) -> String {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .map(|entries| entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    names.sort();
    let seen = |extensions: &[&str]| -> Vec<String> {
        let fits = |n: &&String| extensions.iter().any(|e| has_extension(Path::new(n), e));
        names.iter().filter(fits).take(5).map(|n| printable(n)).collect()
    };
    let mut text = format!("no {SINGLE} and no index found (looked for {INDEX} and {SINGLE})");
    for (extensions, advice) in [
        (&["safetensors"][..], "to use one of them, name that file itself"),
        (&["gguf"], "to use one of them, name that file itself"),
        (
            &["bin", "pt", "pth"],
            "only safetensors are read, never pickles; save the model again with \
             save_pretrained(..., safe_serialization=True)",
        ),
    ] {
        let files = seen(extensions);
        if !files.is_empty() {
            text.push_str(&format!("; found {}: {advice}", files.join(", ")));
        }
    }
    text
}
