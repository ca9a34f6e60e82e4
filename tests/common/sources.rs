//! The source of a crate as its files name each other: every `use` tree and every path of several parts, parsed with
//! syn.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Item, UseTree};

/// All `.rs` files below a folder.
pub fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a source folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
}

/// One file.
pub struct File {
    /// Where it is.
    pub path: PathBuf,
    /// The module that it is: `crate::runtime::kernels`.
    pub module: String,
    /// What it names, from the crate's root on or from another crate's.
    pub names: BTreeSet<Vec<String>>,
    /// What it gives other names: name -> what it stands for.
    exports: BTreeMap<String, Vec<String>>,
}

/// A crate.
pub struct Crate {
    files: Vec<File>,
}

impl Crate {
    /// Parses all files below `src`.
    pub fn parse(src: &Path, name: &str) -> Crate {
        let mut paths = Vec::new();
        sources(src, &mut paths);
        let parse = |path: PathBuf| {
            let relative = path.strip_prefix(src).expect("below src").with_extension("");
            let parts = relative.components().map(|c| c.as_os_str().to_string_lossy().into_owned());
            let parts: Vec<String> = parts.filter(|p| p != "mod" && p != "lib").collect();
            let module = std::iter::once("crate".to_owned()).chain(parts).collect::<Vec<_>>().join("::");
            let text = fs::read_to_string(&path).expect("source text");
            let parsed = syn::parse_file(&text).unwrap_or_else(|e| panic!("{name}: {}: {e}", path.display()));
            let mut reader = Reader { module: vec![module.clone()], ..Reader::default() };
            reader.visit_file(&parsed);
            File { path, module, names: reader.names, exports: reader.exports }
        };
        Crate { files: paths.into_iter().map(parse).collect() }
    }

    /// All files.
    pub fn files(&self) -> &[File] {
        &self.files
    }

    /// Which files each file uses. Passing a name on is no use; who takes it uses the file that has it.
    pub fn edges(&self) -> BTreeMap<String, BTreeSet<String>> {
        let modules: BTreeMap<&str, &File> = self.files.iter().map(|f| (f.module.as_str(), f)).collect();
        let mut edges = BTreeMap::new();
        for file in &self.files {
            let mut used = BTreeSet::new();
            for name in file.names.iter().filter(|name| name[0] == "crate") {
                if let Some(to) = resolve(&modules, name, 0)
                    && to != file.module
                {
                    used.insert(to);
                }
            }
            edges.insert(file.module.clone(), used);
        }
        edges
    }
}

/// The file that has what is named.
fn resolve(modules: &BTreeMap<&str, &File>, name: &[String], depth: usize) -> Option<String> {
    // Nothing passes names on that often but in a circle.
    if depth > 20 {
        return None;
    }
    let at = (1..=name.len()).rev().find(|&n| modules.contains_key(name[..n].join("::").as_str()))?;
    let module = name[..at].join("::");
    let Some(next) = name.get(at) else { return Some(module) };
    let file = modules[module.as_str()];
    if let Some(target) = file.exports.get(next) {
        let whole: Vec<String> = target.iter().chain(&name[at + 1..]).cloned().collect();
        return resolve(modules, &whole, depth + 1);
    }
    Some(module)
}

/// Reads one file.
#[derive(Default)]
struct Reader {
    /// The module under the cursor: that of the file, then those within it.
    module: Vec<String>,
    names: BTreeSet<Vec<String>>,
    exports: BTreeMap<String, Vec<String>>,
}

impl Reader {
    /// A path from the crate's root on; of other crates as it is. `None` for what is in reach without.
    fn absolute(&self, parts: &[String]) -> Option<Vec<String>> {
        let mut here: Vec<String> = self.module.iter().flat_map(|m| m.split("::").map(str::to_owned)).collect();
        let mut rest = parts;
        match rest.first()?.as_str() {
            "crate" => return Some(parts.to_vec()),
            "self" => rest = &rest[1..],
            "super" => {}
            _ => return Some(parts.to_vec()),
        }
        while rest.first().is_some_and(|p| p == "super") {
            here.pop();
            rest = &rest[1..];
        }
        here.extend(rest.iter().cloned());
        Some(here)
    }

    fn tree(&mut self, tree: &UseTree, before: &mut Vec<String>, public: bool) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.tree(&path.tree, before, public);
                before.pop();
            }
            UseTree::Group(group) => group.items.iter().for_each(|item| self.tree(item, before, public)),
            UseTree::Name(name) => self.used(before, &name.ident.to_string(), &name.ident.to_string(), public),
            UseTree::Rename(name) => self.used(before, &name.ident.to_string(), &name.rename.to_string(), public),
            UseTree::Glob(_) => {
                if let Some(path) = self.absolute(before) {
                    self.names.insert(path);
                }
            }
        }
    }

    fn used(&mut self, before: &[String], name: &str, called: &str, public: bool) {
        let mut path = before.to_vec();
        if name != "self" {
            path.push(name.to_owned());
        }
        let called = if name == "self" { before.last().expect("a path").clone() } else { called.to_owned() };
        let Some(path) = self.absolute(&path) else { return };
        let mut within: Vec<String> = self.module[0].split("::").map(str::to_owned).collect();
        within.extend(path.iter().cloned());
        // `use child::Name`, or another crate: whichever of the two there is.
        let local = path[0] != "crate";
        if self.module.len() == 1 {
            self.exports.insert(called, if local { within.clone() } else { path.clone() });
        }
        if !public {
            if local {
                self.names.insert(within);
            }
            self.names.insert(path);
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let public = !matches!(item.vis, syn::Visibility::Inherited);
        self.tree(&item.tree, &mut Vec::new(), public);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if let Some((_, items)) = &item.content {
            self.module.push(item.ident.to_string());
            items.iter().for_each(|item: &Item| self.visit_item(item));
            self.module.pop();
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if parts.len() > 1 && path.leading_colon.is_none() {
            if ["crate", "self", "super"].contains(&parts[0].as_str()) {
                self.names.extend(self.absolute(&parts));
            } else {
                // A child module in reach, as `rtn::ROW`; whatever is none is not found later.
                let mut own: Vec<String> = self.module[0].split("::").map(str::to_owned).collect();
                own.extend(parts);
                self.names.insert(own);
            }
        }
        visit::visit_path(self, path);
    }
}
