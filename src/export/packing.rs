//! Folders of packed matrices: what a recipe's format asks for, and the folder that comes of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use aurora_quantizers::formats;

use super::packed::{self, GROUPS, LAYOUTS, PackedLayout, Packer};
use super::{Layout, Output};
use crate::checkpoint::{self, Config, TensorSource};
use crate::model::ParamId;
use crate::plan::Plan;
use crate::recipe::{Recipe, Setting};
use crate::watch::Watch;
use crate::weights::{Kept, Weights};
use crate::{Error, Result};

/// The format that is no folder.
pub const GGUF: &str = "gguf";

/// What can be set of formats that are folders of codes.
const OPTIONS: [&str; 3] = ["bits", "group_size", "sym"];

fn refuse<T>(what: String) -> Result<T> {
    Err(Error::setting(what))
}

/// A folder of packed matrices, as it was asked for.
pub struct Packing {
    layout: &'static dyn PackedLayout,
    settings: packed::Settings,
    /// As the record and default names have it: "gptq-4bit-g128".
    pub name: String,
}

impl Packing {
    /// What a recipe's format asks for; `None` for GGUF.
    ///
    /// # Errors
    /// If options do not go together.
    pub fn of(recipe: &Recipe) -> Result<Option<Packing>> {
        let (name, set) = (recipe.format.name.as_str(), &recipe.format.options);
        let layout = LAYOUTS.iter().copied().find(|l| l.name() == name);
        if let Some(other) = set.keys().find(|key| layout.is_none() || !OPTIONS.contains(&key.as_str())) {
            let names: Vec<_> = LAYOUTS.iter().map(|l| l.name()).collect();
            return refuse(format!("`format.{other}` is for `format` {}; GGUF's types have `type`", names.join(", ")));
        }
        let Some(layout) = layout else {
            if name == GGUF {
                return Ok(None);
            }
            let names: Vec<_> = [GGUF].into_iter().chain(LAYOUTS.iter().map(|l| l.name())).collect();
            return refuse(format!("`format` {name:?} is not known; known: {}", names.join(", ")));
        };
        let other = [
            (recipe.file_type.is_some(), "type"),
            (recipe.pure, "pure"),
            (!recipe.tensor_types.is_empty(), "tensor_types"),
            (recipe.output_type.is_some(), "output_type"),
            (recipe.embedding_type.is_some(), "embedding_type"),
            (recipe.pre.is_some(), "pre"),
        ];
        if let Some((_, setting)) = other.iter().find(|(given, _)| *given) {
            return refuse(format!("`{setting}` is for GGUF; `format` {name} has bits, group size and symmetry"));
        }
        let number = |key: &str, usual: usize, known: &[usize]| match set.get(key) {
            None => Ok(usual),
            Some(Setting::Count(n)) if known.contains(&(*n as usize)) => Ok(*n as usize),
            Some(other) => {
                let known: Vec<_> = known.iter().map(ToString::to_string).collect();
                refuse(format!("`format.{key}` {other}: must be one of {}", known.join(", ")))
            }
        };
        let symmetric = match set.get(OPTIONS[2]) {
            None => layout.usually_symmetric(),
            Some(Setting::Flag(on)) => *on,
            Some(other) => return refuse(format!("`format.sym` {other}: must be true or false")),
        };
        let bits = number(OPTIONS[0], 4, &[4, 8])?;
        let group = number(OPTIONS[1], GROUPS[2], &GROUPS)?;
        let settings = packed::Settings { bits: bits as u32, group, symmetric };
        if let Some(objection) = layout.objection(settings) {
            return refuse(format!("`format` {} {objection}", layout.name()));
        }
        let sort = if symmetric { "" } else { "-asym" };
        let name = format!("{}-{}bit-g{}{sort}", layout.name(), settings.bits, settings.group);
        Ok(Some(Packing { layout, settings, name }))
    }

    /// The format of every matrix.
    ///
    /// # Errors
    /// If the model is no Hugging Face checkpoint, or one that cannot be packed.
    pub fn kept(&self, source: &dyn TensorSource, weights: &Weights) -> Result<BTreeMap<ParamId, Kept>> {
        if matches!(source.config(), Config::Gguf(_)) {
            let what = format!("`format` {} needs a Hugging Face checkpoint, this is a GGUF file", self.layout.name());
            return Err(Error::setting(what));
        }
        packed::check(weights)?;
        let params = weights.graph().params.iter().enumerate();
        let matrices = params.filter(|(_, p)| p.role.quantizable() && p.shape.len() > 1).map(|(i, _)| ParamId(i));
        Ok(matrices.map(|id| (id, self.matrix(weights, id))).collect())
    }

    fn matrix(&self, weights: &Weights, id: ParamId) -> Kept {
        let role = weights.graph().param(id).role;
        let floats = || {
            let own = weights.kept(id);
            if weights.is_packed(id) { &formats::F16 } else { own.store }
        };
        match packed::format(weights, id, self.settings) {
            Ok(store) => Kept { wanted: store, store, reason: None, integers: false },
            Err(reason) => {
                let store = floats();
                let outside = packed::stays(role);
                let grouped = formats::grouped(self.settings.bits, self.settings.group, self.settings.symmetric);
                let wanted = grouped.filter(|_| !outside).unwrap_or(store);
                Kept { wanted, store, reason: (!outside).then_some(reason), integers: false }
            }
        }
    }

    /// Whether the folder can be written; its path.
    ///
    /// # Errors
    /// If something has its name, or its parent does not exist.
    pub fn destination(&self, path: &Path) -> Result<PathBuf> {
        let refuse = |what: String| Err(Error::destination(path, what));
        let parent = checkpoint::directory_of(path);
        if !parent.is_dir() {
            return refuse(format!("directory {} does not exist; create it first", parent.display()));
        }
        match path.symlink_metadata() {
            Err(_) => Ok(path.to_owned()),
            Ok(_) => refuse("exists; folders are not replaced: remove it, or name another with `name`".to_owned()),
        }
    }

    /// Where the pipeline puts blocks.
    pub fn blocks(&self, plan: &Plan) -> Layout {
        packed::layout(plan)
    }
}

/// A folder that is being written; it goes if it is not finished.
pub struct Folder {
    temp: tempfile::TempDir,
    path: PathBuf,
}

/// The pipeline's output within the folder.
const BLOCKS: &str = "blocks";

impl Folder {
    /// Makes a temporary folder beside `path`, and the file in it that the pipeline writes.
    ///
    /// # Errors
    /// If the directory cannot be written or the disk is too small.
    pub fn begin(path: &Path, layout: Layout) -> Result<(Folder, Output)> {
        let parent = checkpoint::directory_of(path);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let temp = tempfile::Builder::new().prefix(&format!(".{name}.")).suffix(".aurora-tmp").tempdir_in(parent);
        let temp = temp.map_err(|e| Error::io(parent, "create a folder in this directory", e.kind().into()))?;
        let output = Output::begin(&temp.path().join(BLOCKS), layout, false)?;
        Ok((Folder { temp, path: path.to_owned() }, output))
    }

    /// Packs what the pipeline wrote, and gives the folder its name. Returns the bytes of all shards.
    ///
    /// # Errors
    /// If the disk fails, the watch says to stop, or the name cannot be taken; then nothing is left behind.
    pub fn finish(
        self,
        packing: &Packing,
        source: &dyn TensorSource,
        weights: &Weights,
        plan: &Plan,
        watch: &dyn Watch,
    ) -> Result<u64> {
        let Config::HuggingFace(config) = source.config() else { unreachable!("looked at before the work") };
        let blocks = self.temp.path().join(BLOCKS);
        let (settings, layout) = (packing.settings, packing.layout);
        let packer = Packer { weights, plan, settings, layout, config };
        let bytes = packer.write(&blocks, self.temp.path(), watch)?;
        fs::remove_file(&blocks).map_err(|e| Error::io(&blocks, "remove", e))?;
        open_to_all(self.temp.path()).map_err(|e| Error::io(&self.path, "set the permissions of", e))?;
        watch.go_on()?;
        fs::rename(self.temp.path(), &self.path)
            .map_err(|e| Error::io(&self.path, "give the finished folder this name", e))?;
        // It is no temporary folder any more.
        let _ = self.temp.keep();
        Ok(bytes)
    }
}

/// Temporary folders are private; this one is to be like any other new folder.
#[cfg(unix)]
fn open_to_all(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn open_to_all(_: &Path) -> std::io::Result<()> {
    Ok(())
}
