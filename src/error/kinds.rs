//! The kinds of errors: when each comes, and what a caller can do.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use aurora_quantizers::NumError;

use super::place::{Misfit, Quantity, TensorFault, Within, printable, tensors};

/// What an error came from.
pub type Cause = Box<dyn StdError + Send + Sync>;

/// Why a run stopped.
///
/// The first five are about files and the disk, the next four about what is in a file; then come settings, numbers,
/// texts, the output, and the process itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory is not there: the one that was named, or some that it needs. Name another, or put the
    /// missing ones there: those that an index names can be downloaded.
    #[error("{}: {what}", path.display())]
    NotFound {
        /// What was named, or what names the missing files.
        path: PathBuf,
        /// Everything that is missing.
        missing: Vec<PathBuf>,
        /// What was tried, or what needs the files.
        what: String,
        /// The system's reason, if it was asked.
        source: Option<io::Error>,
    },
    /// The system does not allow it: permissions, or a file system that cannot be written. Change them, or choose
    /// another place.
    #[error("{}: cannot {doing}", path.display())]
    Denied {
        /// File or directory.
        path: PathBuf,
        /// What was tried: "open", "write".
        doing: String,
        /// The system's reason.
        source: io::Error,
    },
    /// No room: the disk is full, or a quota or a limit of a file's size is reached. Nothing is left of the output;
    /// run again when there is room.
    #[error("{}: cannot {doing}", path.display())]
    DiskFull {
        /// File or directory.
        path: PathBuf,
        /// What was tried: "write", "reserve 100 bytes for it".
        doing: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The system failed in another way: see the source's [`kind`](io::Error::kind). Trying again may help.
    #[error("{}: cannot {doing}", path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// What was tried: "open", "write", "rename to ...".
        doing: String,
        /// The system's reason.
        source: io::Error,
    },
    /// An input was written to while it was in use. Run again once nobody writes it.
    #[error("{}: {what}", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// What it was and is.
        what: String,
    },
    /// A file ends before what it says it holds: a download or copy that was cut short. Get it again.
    #[error("{}: {within}{what}", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Where in it.
        within: Within,
        /// How much there is, and how much there should be.
        what: String,
        /// The reader's reason, if another one read it.
        source: Option<Cause>,
    },
    /// A file is not what its name or header says, breaks a rule of its format, or contradicts itself. Get it or make
    /// it again; trying again does not help.
    #[error("{}: {within}{what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it.
        within: Within,
        /// What was found, what was needed.
        what: String,
        /// The reader's reason, if another one read it.
        source: Option<Cause>,
    },
    /// A file, model or format that is sound, but not read, written or run here. The key or type that asks for it is
    /// named, and where there is one, what to use instead.
    #[error("{}{within}{what}", before(path.as_deref()))]
    Unsupported {
        /// The file that asks for it; none if the output's format cannot have it.
        path: Option<PathBuf>,
        /// Where in it: the key or tensor is the feature.
        within: Within,
        /// What was asked, what is known, what to try.
        what: String,
        /// The lower reason, if there is one.
        source: Option<Cause>,
    },
    /// Tensors that are missing, of another shape or type than needed, or of another model: all of one file or
    /// checkpoint, in one error. Check that its files are complete and belong together.
    #[error("{}: {}", path.display(), tensors(faults, advice))]
    Tensors {
        /// Checkpoint directory or file.
        path: PathBuf,
        /// At least one.
        faults: Vec<TensorFault>,
        /// What to try; empty if the faults say it.
        advice: &'static str,
    },
    /// A setting has a value that it cannot have, or is not known. Choose one of those that the text names.
    #[error("{}{what}", set(setting, value))]
    Setting {
        /// Its name, as recipes spell it.
        setting: String,
        /// What it was set to; empty if nothing was.
        value: String,
        /// What it could be.
        what: String,
        /// The lower reason, if there is one.
        source: Option<Cause>,
    },
    /// Settings, or a setting and its input, that are each fine but do not go together. Leave one of them out.
    #[error("{what}")]
    Conflict {
        /// Their names, as recipes spell them.
        settings: Vec<String>,
        /// Why, and what to do.
        what: String,
    },
    /// Numbers that are NaN or infinite. Weights that are so come from a damaged file or a training run that diverged;
    /// activations overflow in this text, and another text or the original weights may do.
    #[error("{}{what}", tensor_of(path.as_deref(), tensor))]
    NotFinite {
        /// The file that holds the tensor; none if only its name in the output is known.
        path: Option<PathBuf>,
        /// The tensor, or those that read the activations; empty if none does.
        tensor: String,
        /// What the numbers are.
        of: Quantity,
        /// Where, and why.
        what: String,
        /// How many, and where the first is, if they were counted.
        source: Option<NumError>,
    },
    /// Finite numbers that a format cannot hold or a method cannot work with. Choose another type for the tensor, or
    /// more text.
    #[error("{}{what}", tensor_of(path.as_deref(), tensor))]
    Numbers {
        /// The file that holds the tensor; none if only its name in the output is known.
        path: Option<PathBuf>,
        /// The tensor.
        tensor: String,
        /// What cannot be done with it.
        what: String,
        /// The numbers' fault, if it was found there.
        source: Option<NumError>,
    },
    /// A text has too few tokens for a single sample. Name a longer one, or use a shorter context.
    #[error("{what}")]
    TooShort {
        /// Tokens that it has.
        found: usize,
        /// Tokens that are needed.
        needed: usize,
        /// What to try.
        what: String,
    },
    /// A text or conversation with which the model cannot do what was asked: longer than its context, of another
    /// vocabulary, or refused by its chat template (or it has none).
    #[error("{what}")]
    Text {
        /// What was found, what was needed, what to try.
        what: String,
        /// The template's reason, if it has one.
        source: Option<Cause>,
    },
    /// Something has the output's name already. Name another, or let it be replaced.
    #[error("{}: {what}", path.display())]
    Exists {
        /// The output as it was named.
        path: PathBuf,
        /// Whether it is a file, which `replace` would replace.
        replaceable: bool,
        /// What is there, what to try.
        what: String,
    },
    /// The system does not give the process what it asks for: threads, signals. Ask for less, or run again later.
    #[error("cannot {doing}")]
    Resources {
        /// What was tried: "start 4 threads".
        doing: String,
        /// The system's reason.
        source: Cause,
    },
    /// The watch said to stop: Ctrl-C or a termination signal, or whatever a program has for them. Run again, with
    /// `resume` if it was on.
    #[error("interrupted; nothing was written")]
    Interrupted,
    /// What cannot be if this program and its caller are right, and the machine sound. Please report it.
    #[error("{what}")]
    Bug {
        /// What was found.
        what: String,
        /// The lower reason, if there is one.
        source: Option<Cause>,
    },
}

impl Error {
    /// A failure of the system at `path` while doing `doing`, by its kind.
    pub fn io(path: &Path, doing: impl Into<String>, source: io::Error) -> Self {
        let (path, doing) = (path.to_owned(), doing.into());
        match source.kind() {
            io::ErrorKind::NotFound => {
                let (missing, what) = (vec![path.clone()], format!("cannot {doing}"));
                Error::NotFound { path, missing, what, source: Some(source) }
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Error::Denied { path, doing, source }
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Error::DiskFull { path, doing, source }
            }
            io::ErrorKind::InvalidData => {
                let (within, what) = (Within::File, format!("cannot {doing}"));
                Error::Damaged { path, within, what, source: Some(source.into()) }
            }
            _ => Error::Io { path, doing, source },
        }
    }

    /// What an output's format cannot have.
    pub(crate) fn unsupported(within: Within, what: impl Into<String>) -> Self {
        Error::Unsupported { path: None, within, what: what.into(), source: None }
    }

    /// Files that `path` needs and that are not there.
    pub(crate) fn missing(path: &Path, missing: Vec<PathBuf>, what: impl Into<String>) -> Self {
        Error::NotFound { path: path.to_owned(), missing, what: what.into(), source: None }
    }

    /// A file that changed.
    pub(crate) fn changed(path: &Path, what: impl Into<String>) -> Self {
        Error::Changed { path: path.to_owned(), what: what.into() }
    }

    /// A tensor that does not fit; `what` goes on after its name.
    pub(crate) fn misfit(path: &Path, tensor: &str, misfit: Misfit, what: impl fmt::Display) -> Self {
        let tensor = printable(tensor);
        let what = format!("tensor {tensor}: {what}");
        Error::Tensors { path: path.to_owned(), faults: vec![TensorFault { tensor, misfit, what }], advice: "" }
    }

    /// A setting with a value that it cannot have.
    pub(crate) fn setting(setting: impl Into<String>, value: impl fmt::Display, what: impl Into<String>) -> Self {
        Error::Setting { setting: setting.into(), value: value.to_string(), what: what.into(), source: None }
    }

    /// Settings that do not go together.
    pub(crate) fn conflict<const N: usize>(settings: [&str; N], what: impl Into<String>) -> Self {
        Error::Conflict { settings: settings.map(str::to_owned).into(), what: what.into() }
    }

    /// Numbers of a tensor with which something cannot be done. `path`: its file, if it is named as it is there.
    pub(crate) fn numbers(
        path: Option<&Path>,
        tensor: &str,
        of: Quantity,
        what: impl Into<String>,
        source: NumError,
    ) -> Self {
        let (path, tensor, what, source) = (path.map(Path::to_owned), tensor.to_owned(), what.into(), Some(source));
        match source {
            Some(NumError::NotFinite { .. }) => Error::NotFinite { path, tensor, of, what, source },
            _ => Error::Numbers { path, tensor, what, source },
        }
    }

    /// A text with which the model cannot do what was asked.
    pub(crate) fn text(what: impl Into<String>) -> Self {
        Error::Text { what: what.into(), source: None }
    }

    /// Something that the system does not give.
    pub fn resources(doing: impl Into<String>, source: impl Into<Cause>) -> Self {
        Error::Resources { doing: doing.into(), source: source.into() }
    }

    /// What cannot be.
    pub(crate) fn bug(what: impl Into<String>) -> Self {
        Error::Bug { what: what.into(), source: None }
    }
}

fn before(path: Option<&Path>) -> String {
    path.map_or(String::new(), |path| format!("{}: ", path.display()))
}

fn set(setting: &str, value: &str) -> String {
    let space = if value.is_empty() { "" } else { " " };
    format!("`{setting}`{space}{value}: ")
}

fn tensor_of(path: Option<&Path>, tensor: &str) -> String {
    match path {
        Some(path) if tensor.is_empty() => format!("{}: ", path.display()),
        Some(path) => format!("{}: tensor {tensor}: ", path.display()),
        None => format!("{tensor}: "),
    }
}
