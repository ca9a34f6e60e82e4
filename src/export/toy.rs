//! An exporter for tests: writes the tensors one after the other, and nothing else. It is one file and one row of the
//! table.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{About, Assigned, Contents, Exporter, FileMap, Output, Prepared, Request, Sink, destination};
use crate::Result;
use crate::checkpoint::TensorSource;
use crate::options::{Opt, OptKind};
use crate::plan::FileType;
use crate::weights::{Edits, Weights};

/// The exporter.
pub struct Toy;

static ABOUT: About =
    About { name: "toy", title: "Toy", summary: "bare tensors", settings: &["type"], options: &[TOY_GAP] };

/// Nobody else knows of it: flag, recipe and checks follow from its being listed.
const TOY_GAP: Opt =
    Opt { name: "toy_gap", about: "Zeros before the first tensor", kind: OptKind::Count(0, 64), default: "0" };

impl Exporter for Toy {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn assign(&self, request: &Request, _: &dyn TensorSource, _: &Weights<'_>) -> Result<Assigned> {
        let file_type = FileType::by_name(request.file_type.as_deref().unwrap_or("f32"))?;
        Ok(Assigned {
            name: file_type.name.to_owned(),
            ending: "bin".to_owned(),
            rules: request.rules(file_type),
            kept: BTreeMap::new(),
            edits: Edits::new(),
            warning: None,
        })
    }

    fn prepare(&self, contents: Contents<'_>) -> Result<Box<dyn Prepared>> {
        let gap = ABOUT.options_in(contents.request)?.count(TOY_GAP.name);
        let map = FileMap::gapless(vec![0; gap], contents.plan);
        Ok(Box::new(Bare { map }))
    }

    fn destination(&self, path: &Path, replace: bool) -> Result<PathBuf> {
        destination::file(path, replace)
    }
}

struct Bare {
    map: FileMap,
}

impl Prepared for Bare {
    fn bytes(&self) -> u64 {
        self.map.size
    }

    fn notes(&self) -> &[String] {
        &[]
    }

    fn begin<'a>(&'a self, _: Contents<'a>, path: &Path, replace: bool) -> Result<Box<dyn Sink + 'a>> {
        Ok(Box::new(Output::begin(path, self.map.clone(), replace)?))
    }
}
