//! What is wrong in a file, before its place is known.

use std::path::Path;

use super::kinds::{Cause, Error};
use super::place::{Within, printable};

/// What is wrong in a file, by whoever finds it; where, is added by whoever knows.
#[derive(Debug)]
pub struct Fault {
    kind: Kind,
    what: String,
    source: Option<Cause>,
}

#[derive(Debug)]
enum Kind {
    Truncated,
    Damaged,
    Unsupported,
}

impl Fault {
    /// See [`Error::Truncated`].
    pub fn truncated(what: impl Into<String>) -> Self {
        Fault { kind: Kind::Truncated, what: what.into(), source: None }
    }

    /// See [`Error::Damaged`].
    pub fn damaged(what: impl Into<String>) -> Self {
        Fault { kind: Kind::Damaged, what: what.into(), source: None }
    }

    /// See [`Error::Unsupported`].
    pub fn unsupported(what: impl Into<String>) -> Self {
        Fault { kind: Kind::Unsupported, what: what.into(), source: None }
    }

    /// JSON that cannot be read: damaged, or cut short if it ends too early.
    pub fn json(what: impl Into<String>, e: serde_json::Error) -> Self {
        let kind = if e.is_eof() { Kind::Truncated } else { Kind::Damaged };
        Fault { kind, what: what.into(), source: Some(e.into()) }
    }

    /// The same with what it came from.
    pub fn because(self, source: impl Into<Cause>) -> Self {
        Fault { source: Some(source.into()), ..self }
    }

    /// The same with words in front.
    pub fn about(self, before: &str) -> Self {
        Fault { what: format!("{before}: {}", self.what), ..self }
    }

    /// The error, of a place in a file.
    pub fn at(self, path: &Path, within: Within) -> Error {
        let Fault { kind, what, source } = self;
        let path = path.to_owned();
        match kind {
            Kind::Truncated => Error::Truncated { path, within, what, source },
            Kind::Damaged => Error::Damaged { path, within, what, source },
            Kind::Unsupported => Error::Unsupported { path: Some(path), within, what, source },
        }
    }

    /// The error, of a file as a whole.
    pub fn of(self, path: &Path) -> Error {
        self.at(path, Within::File)
    }

    /// The error, of a key in a file.
    pub fn of_key(self, path: &Path, key: impl Into<String>) -> Error {
        self.at(path, Within::Key(key.into()))
    }

    /// The error, of a tensor in a file. The name may be any that was read.
    pub fn of_tensor(self, path: &Path, name: &str) -> Error {
        self.at(path, Within::Tensor(printable(name)))
    }
}

impl From<String> for Fault {
    fn from(what: String) -> Self {
        Fault::damaged(what)
    }
}

impl From<&str> for Fault {
    fn from(what: &str) -> Self {
        Fault::damaged(what)
    }
}
