//! Everything that can stop a run, with its place: which file, which tensor, what was found, what to try.
//!
//! Variants are few; the words are chosen where the fact is known. The binary prints an error once, as one line or,
//! for a checkpoint with several faults, one line each.

use std::io;
use std::path::{Path, PathBuf};

/// Shorthand used by the whole library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a run stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: cannot {doing}: {source}", path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// What was tried: "open", "write", "rename to ...".
        doing: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A file is not what its name or header says.
    #[error("{}: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A tensor inside a file is wrong.
    #[error("{}: tensor {tensor}: {what}", path.display())]
    Tensor {
        /// The file that holds it.
        path: PathBuf,
        /// The tensor's name in that file.
        tensor: String,
        /// What was found, what was needed.
        what: String,
    },
    /// Numbers that a method cannot work with.
    #[error("{tensor}: {what}")]
    Numbers {
        /// The parameter's name in the output.
        tensor: String,
        /// What was found, what was needed.
        what: String,
    },
    /// A key of config.json or of a GGUF header is missing or has a value that cannot be used.
    #[error("{}: {key}: {what}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The key as it is spelled in the file.
        key: String,
        /// What was found, what was needed.
        what: String,
    },
    /// Several faults of one checkpoint, all of them.
    #[error("{}: {}", path.display(), list(problems))]
    Checkpoint {
        /// Checkpoint directory or file.
        path: PathBuf,
        /// One line each.
        problems: Vec<String>,
    },
    /// A model, type or format that is sound, but that this program does not read, write or run.
    #[error("{what}")]
    Unsupported {
        /// What was asked, what is known, what to try.
        what: String,
    },
    /// A setting that has a value it cannot have, or that does not go with another. Names of settings stand in
    /// backticks, as recipes spell them.
    #[error("{what}")]
    Setting {
        /// Which, what it is, what it could be.
        what: String,
    },
    /// A text, or its tokens, with which the model cannot do what was asked: too short, too long, of another
    /// vocabulary.
    #[error("{what}")]
    Text {
        /// What was found, what was needed, what to try.
        what: String,
    },
    /// A chat template that is missing, faulty, or refuses a conversation.
    #[error("{what}")]
    Template {
        /// Where, and why.
        what: String,
    },
    /// The output cannot be where it was asked to be.
    #[error("{}: {what}", path.display())]
    Destination {
        /// The output as it was named.
        path: PathBuf,
        /// What is there, what to try.
        what: String,
    },
    /// The system does not let the process do something that has no file.
    #[error("cannot {doing}: {source}")]
    System {
        /// What was tried: "start 4 threads".
        doing: String,
        /// The system's reason.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Ctrl-C or a termination signal.
    #[error("interrupted; nothing was written")]
    Interrupted,
}

fn list(problems: &[String]) -> String {
    match problems {
        [one] => one.clone(),
        many => {
            let mut text = format!("{} problems", many.len());
            for p in many {
                text.push_str("\n  ");
                text.push_str(p);
            }
            text
        }
    }
}

impl Error {
    /// An I/O failure at `path` while doing `doing`.
    pub fn io(path: &Path, doing: impl Into<String>, source: io::Error) -> Self {
        Error::Io { path: path.to_owned(), doing: doing.into(), source }
    }

    /// A file that is not what it should be.
    pub fn malformed(path: &Path, what: impl Into<String>) -> Self {
        Error::Malformed { path: path.to_owned(), what: what.into() }
    }

    /// A tensor that is not what it should be.
    pub fn tensor(path: &Path, tensor: impl Into<String>, what: impl Into<String>) -> Self {
        Error::Tensor { path: path.to_owned(), tensor: tensor.into(), what: what.into() }
    }

    /// Numbers of a parameter that a method cannot work with.
    pub fn numbers(tensor: impl Into<String>, what: impl Into<String>) -> Self {
        Error::Numbers { tensor: tensor.into(), what: what.into() }
    }

    /// A configuration key that is missing or unusable.
    pub fn config(path: &Path, key: impl Into<String>, what: impl Into<String>) -> Self {
        Error::Config { path: path.to_owned(), key: key.into(), what: what.into() }
    }

    /// A model, type or format that this program does not do.
    pub fn unsupported(what: impl Into<String>) -> Self {
        Error::Unsupported { what: what.into() }
    }

    /// A setting that cannot be so.
    pub fn setting(what: impl Into<String>) -> Self {
        Error::Setting { what: what.into() }
    }

    /// A text with which the model cannot do what was asked.
    pub fn text(what: impl Into<String>) -> Self {
        Error::Text { what: what.into() }
    }

    /// A chat template that cannot be used.
    pub fn template(what: impl Into<String>) -> Self {
        Error::Template { what: what.into() }
    }

    /// An output that cannot be there.
    pub fn destination(path: &Path, what: impl Into<String>) -> Self {
        Error::Destination { path: path.to_owned(), what: what.into() }
    }

    /// Something that the system does not allow.
    pub fn system(doing: impl Into<String>, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Error::System { doing: doing.into(), source: Box::new(source) }
    }
}

/// A name read from a file, fit for an error message: control characters escaped, and never pages long.
pub(crate) fn printable(name: &str) -> String {
    const LIMIT: usize = 200;
    let mut text: String = name.chars().take(LIMIT).flat_map(char::escape_debug).collect();
    if name.chars().nth(LIMIT).is_some() {
        text.push_str("...");
    }
    text
}
