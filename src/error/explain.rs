//! The whole story of an error for people, with what to try where whoever found the fault did not say.

use std::error::Error as _;
use std::path::Path;

use super::kinds::Error;
use super::place::{Quantity, Within};

impl Error {
    /// The whole story: this error, then what it came from, each once, and what to try.
    pub fn explain(&self) -> String {
        let mut text = self.to_string();
        let mut next = self.source();
        while let Some(e) = next {
            let part = e.to_string();
            // Some libraries tell their source's story too.
            if !text.ends_with(part.trim_end()) {
                text.push_str(": ");
                text.push_str(part.trim_end());
            }
            next = e.source();
        }
        if let Some(advice) = advice(self) {
            text.push_str("; ");
            text.push_str(advice);
        }
        text
    }
}

/// The way out of an error whose own words name none: messages put theirs after a semicolon.
fn advice(error: &Error) -> Option<&'static str> {
    let says = |what: &str| what.contains("; ") || error.source().is_some_and(|e| e.to_string().contains("; "));
    match error {
        Error::Truncated { what, path, within, .. } | Error::Damaged { what, path, within, .. } => {
            (!says(what)).then(|| again(path, within))
        }
        Error::NotFinite { of: Quantity::Weights, .. } => {
            Some("get it again, or take an earlier checkpoint of that run")
        }
        Error::NotFound { source: Some(_), what, .. } if !says(what) => Some("check the name"),
        Error::Denied { .. } => Some("change the permissions, or name another place"),
        Error::DiskFull { .. } => Some("make room, or name another disk"),
        _ => None,
    }
}

fn again(path: &Path, within: &Within) -> &'static str {
    match within {
        _ if is(path, "gguf") || is(path, "safetensors") => "download or make the file again",
        Within::Key(_) => "correct the entry, or get the file again",
        _ => "correct the file, or get it again",
    }
}

fn is(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
}
