//! Where the output of a conversion goes.

use std::path::{Path, PathBuf};

use crate::checkpoint::{self, Config, TensorSource};
use crate::plan::FileType;
use crate::{Error, Result};

/// Where the output goes: `path` itself, or what it links to.
///
/// Everything that is known to go wrong is found here, before the work: it may take hours.
pub fn destination(path: &Path, force: bool) -> Result<PathBuf> {
    let refuse = |what: String| Err(Error::destination(path, what));
    let dir = checkpoint::directory_of(path);
    if !dir.is_dir() {
        return refuse(format!("directory {} does not exist; create it first", dir.display()));
    }
    let ends_like_a_directory = path.as_os_str().to_string_lossy().ends_with(std::path::is_separator);
    if path.is_dir() || path.file_name().is_none() || ends_like_a_directory {
        return refuse("names a directory; `name` needs a file name".to_owned());
    }
    let Ok(found) = path.symlink_metadata() else { return Ok(path.to_owned()) };
    if !force {
        return refuse("exists; use `replace` to replace it, or another name with `name`".to_owned());
    }
    // A link stays a link: what it leads to is replaced.
    let real = if found.is_symlink() {
        path.canonicalize().map_err(|e| Error::io(path, "follow the link", e))?
    } else {
        path.to_owned()
    };
    if !real.is_file() {
        return refuse("is no regular file; it is not replaced".to_owned());
    }
    Ok(real)
}

/// `<model>-<type>.gguf`, or without an extension `<model>-<name>`, in the current directory.
pub fn default_output(source: &dyn TensorSource, name: &str, file_type: &str, extension: &str) -> PathBuf {
    let config = source.config().path();
    let model = match source.config() {
        Config::HuggingFace(_) => {
            let dir = checkpoint::directory_of(config);
            let id = checkpoint::card::directory_id(dir).unwrap_or_else(|| "model".to_owned());
            id.rsplit('/').next().unwrap_or_default().to_owned()
        }
        Config::Gguf(_) => {
            let stem = config.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            // model-bf16.gguf becomes model-q4_0.gguf, not model-bf16-q4_0.gguf.
            let cut = stem.rsplit_once('-').filter(|(_, end)| FileType::by_name(end).is_ok());
            cut.map_or(stem.clone(), |(start, _)| start.to_owned())
        }
    };
    match extension {
        "" => PathBuf::from(format!("{model}-{name}")),
        _ => PathBuf::from(format!("{model}-{file_type}.{extension}")),
    }
}
