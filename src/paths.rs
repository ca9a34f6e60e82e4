//! Operations on paths as text: nothing is looked up on the disk.

use std::path::{Component, Path, PathBuf};

/// The directory that a file is in, or would be.
pub fn directory_of(file: &Path) -> &Path {
    file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// `path` as seen from `folder`, both absolute.
pub fn relative(path: &Path, folder: &Path) -> PathBuf {
    let parts =
        |p: &Path| p.components().filter(|c| *c != Component::CurDir).map(|c| c.as_os_str().to_owned()).collect();
    let (path, folder): (Vec<_>, Vec<_>) = (parts(path), parts(folder));
    let shared = path.iter().zip(&folder).take_while(|(a, b)| a == b).count();
    // `..` undoes a part by name, which a part that is itself `..` does not allow.
    if shared == 0 || folder[shared..].iter().any(|part| part == "..") {
        return path.iter().collect();
    }
    let up = folder[shared..].iter().map(|_| "..".into());
    up.chain(path[shared..].iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_seen_from_another_folder() {
        let seen = |path: &str, folder: &str| relative(Path::new(path), Path::new(folder));
        assert_eq!(seen("/a/b/m", "/a/b"), Path::new("m"));
        assert_eq!(seen("/a/b/m", "/a/c/d"), Path::new("../../b/m"));
        assert_eq!(seen("/a/./b/../m", "/a"), Path::new("b/../m"));
    }
}
