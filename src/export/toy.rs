//! An exporter for tests: writes the tensors one after the other, and nothing else. It is one file and one row of the
//! table.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{About, Assigned, Contents, Exporter, FileMap, Output, Prepared, Request, Sink, destination};
use crate::Result;
use crate::checkpoint::TensorSource;
use crate::plan::FileType;
use crate::record::ImportanceRecord;
use crate::weights::{Edits, Weights};

/// The exporter.
pub struct Toy;

static ABOUT: About = About { name: "toy", title: "Toy", summary: "bare tensors", settings: &["type"] };

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

    fn prepare<'a>(&self, contents: Contents<'a>) -> Result<Box<dyn Prepared<'a> + 'a>> {
        let mut map = FileMap { header: Vec::new(), offsets: Vec::new(), size: 0 };
        for t in &contents.plan.tensors {
            map.offsets.push(map.size);
            map.size += t.bytes;
        }
        Ok(Box::new(Bare { map }))
    }

    fn destination(&self, path: &Path, replace: bool) -> Result<PathBuf> {
        destination::file(path, replace)
    }
}

struct Bare {
    map: FileMap,
}

impl<'a> Prepared<'a> for Bare {
    fn bytes(&self) -> u64 {
        self.map.size
    }

    fn notes(&self) -> &[String] {
        &[]
    }

    fn weighed(&mut self, _: &ImportanceRecord) -> Result<()> {
        Ok(())
    }

    fn begin(self: Box<Self>, path: &Path, replace: bool) -> Result<Box<dyn Sink + 'a>> {
        Ok(Box::new(Output::begin(path, self.map, replace)?))
    }
}
