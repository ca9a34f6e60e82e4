//! What a conversion is asked to write beside its output: recipe and record. Both are checked before the work and written
//! after it, so that a run that fails leaves neither, and can be started again as it was.

use std::path::{Path, PathBuf};

use crate::cli::args::Convert;
use crate::paths::directory_of;
use crate::recipe::Recipe;
use crate::record::Record;
use crate::{Error, Result, files};

/// Whether the files can be written, each under a name of its own.
///
/// # Errors
/// If one cannot, two of output, recipe and record have one path, or the recipe has a path that a file cannot name.
pub(super) fn check(args: &Convert, recipe: &Recipe, output: &Path) -> Result<()> {
    let mut taken = vec![("output", place(output))];
    for (setting, path) in [("save_recipe", &args.save_recipe), ("record", &args.record)] {
        let Some(path) = path else { continue };
        let own = place(path);
        if let Some((other, _)) = taken.iter().find(|(_, known)| *known == own) {
            let what =
                format!("{} is named by `{other}` and by `{setting}`; give each a file of its own", path.display());
            return Err(Error::conflict([other, setting], what));
        }
        files::check(path, setting, args.force)?;
        recipe.seen_from(directory_of(path))?;
        taken.push((setting, own));
    }
    Ok(())
}

/// Writes them.
///
/// # Errors
/// If the disk is full or fails, or a name was taken meanwhile.
pub(super) fn write(args: &Convert, recipe: &Recipe, record: &Record) -> Result<()> {
    args.save_recipe.as_ref().map_or(Ok(()), |path| recipe.save(path, args.force))?;
    args.record.as_ref().map_or(Ok(()), |path| record.save(path, args.force))
}

/// One spelling for every path of a file, whether or not it is there.
fn place(path: &Path) -> PathBuf {
    let folder = directory_of(path).canonicalize();
    let named = folder.ok().zip(path.file_name()).map(|(folder, name)| folder.join(name));
    path.canonicalize().ok().or(named).unwrap_or_else(|| path.to_owned())
}
