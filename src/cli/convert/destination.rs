//! What the output of a conversion is called.

use std::path::PathBuf;

use crate::checkpoint::{self, Config, TensorSource};
use crate::plan::FileType;

/// `<model>-<ending>` in the current directory.
pub(super) fn default_output(source: &dyn TensorSource, ending: &str) -> PathBuf {
    let config = source.config().path();
    let name = match source.config() {
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
    PathBuf::from(format!("{name}-{ending}"))
}
