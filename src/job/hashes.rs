//! SHA-256 of the files that a conversion read and wrote, for its record.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::checkpoint::tokenizer::MORE_TEMPLATES;
use crate::checkpoint::{Config, TensorSource, directory_of};
use crate::recipe::{Importance, Recipe};
use crate::record::FileRecord;
use crate::watch::Watch;
use crate::{Error, Result};

/// Bytes read at a time.
const BUFFER: usize = 1 << 20;

/// Extensions of the files in a checkpoint folder that describe the model, besides its tensors.
const BESIDE: [&str; 5] = ["json", "model", "txt", "jinja", "md"];

/// Hashes all files that the conversion reads: tensors, the files beside them, statistics and texts.
pub(super) fn inputs(source: &dyn TensorSource, recipe: &Recipe, watch: &dyn Watch) -> Result<Vec<FileRecord>> {
    let mut files: Vec<PathBuf> = source.files().to_vec();
    if let Config::HuggingFace(config) = source.config() {
        let folder = directory_of(&config.path);
        let known = |p: &Path| p.extension().is_some_and(|e| BESIDE.iter().any(|known| e == *known));
        files.extend(listed(folder)?.into_iter().filter(|path| known(path)));
        files.extend(templates(folder)?);
    }
    if let Some(Importance::File(path)) = &recipe.importance {
        files.push(path.clone());
    }
    files.extend(recipe.stats.clone());
    files.extend(recipe.text.files.iter().cloned());
    hashes(files, &|path| path.display().to_string(), watch)
}

/// The files that were written, all files of a folder.
pub(super) fn outputs(written: Vec<PathBuf>, watch: &dyn Watch) -> Result<Vec<FileRecord>> {
    let mut files = Vec::new();
    for path in written {
        match path.is_dir() {
            true => files.extend([listed(&path)?, templates(&path)?].concat()),
            false => files.push(path),
        }
    }
    let name = |file: &Path| {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let inner = file.parent().is_some_and(|folder| folder.ends_with(MORE_TEMPLATES));
        if inner { format!("{MORE_TEMPLATES}/{name}") } else { name }
    };
    hashes(files, &name, watch)
}

/// The files of a folder, sorted by name.
fn listed(folder: &Path) -> Result<Vec<PathBuf>> {
    let fail = |e| Error::io(folder, "list", e);
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The files of the one folder within a checkpoint's that belongs to the model.
fn templates(folder: &Path) -> Result<Vec<PathBuf>> {
    let within = folder.join(MORE_TEMPLATES);
    if within.is_dir() { listed(&within) } else { Ok(Vec::new()) }
}

fn hashes(
    mut files: Vec<PathBuf>,
    name: &(dyn Fn(&Path) -> String + Sync),
    watch: &dyn Watch,
) -> Result<Vec<FileRecord>> {
    let mut seen = std::collections::BTreeSet::new();
    files.retain(|path| seen.insert(path.clone()));
    files.par_iter().map(|path| hash(path, name(path), watch)).collect()
}

fn hash(path: &Path, name: String, watch: &dyn Watch) -> Result<FileRecord> {
    let fail = |e| Error::io(path, "read", e);
    let mut file = File::open(path).map_err(fail)?;
    let (mut sum, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; BUFFER]);
    loop {
        watch.go_on()?;
        let n = file.read(&mut buffer).map_err(fail)?;
        if n == 0 {
            return Ok(FileRecord { path: name, bytes, sha256: format!("{:x}", sum.finalize()) });
        }
        sum.update(&buffer[..n]);
        bytes += n as u64;
    }
}
