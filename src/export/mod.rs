//! Writing the output: checked and laid out before any work, streamed, and complete or absent at the end.
//!
//! Each format is one file and one row of [`EXPORTERS`]. A conversion calls its exporter in this order:
//!
//! ```no_run
//! # use aurora_quant::export::{self, Contents, Request, by_name};
//! # use aurora_quant::{Result, checkpoint::TensorSource, model::Model, plan::Plan};
//! # use aurora_quant::{watch::Unwatched, weights::Weights};
//! # fn convert(source: &dyn TensorSource, model: &Model, weights: Weights, path: &std::path::Path) -> Result<()> {
//! let exporter = by_name("gguf")?;
//! let request = Request { file_type: Some("q4_0".to_owned()), ..Request::default() };
//! // Decide the type of each matrix, and with it the plan.
//! let types = export::assign(exporter, &request, source, &weights)?;
//! let weights = weights.edited(&types.edits)?;
//! let plan = Plan::keeping(model, &types.rules, &types.kept)?;
//! // Whatever can go wrong goes wrong here, before hours of calibration.
//! let path = exporter.destination(path, false)?;
//! let (weights, plan, request) = (&weights, &plan, &request);
//! let contents = Contents { source, model, weights, plan, request, importance: None };
//! let prepared = exporter.prepare(contents)?;
//! // The pipeline writes rows, in any order and from any thread.
//! let sink = prepared.begin(contents, &path, false)?;
//! # let bytes = Vec::new();
//! sink.put(0, 0, 0, &bytes)?;
//! let written = sink.finish(&Unwatched)?;
//! # let _ = written;
//! # Ok(())
//! # }
//! ```
//!
//! Knows nothing about methods: rows arrive with their final values.

mod companions;
mod compressed_tensors;
mod destination;
mod exporter;
mod file;
mod folder;
pub mod gguf;
pub mod metadata;
pub(crate) mod packed;
mod request;
pub(crate) mod safetensors;
mod shards;
pub(crate) mod sparse;
#[cfg(test)]
mod toy;

pub(crate) use destination::usual as usual_output;
pub use exporter::{About, Assigned, Contents, Exporter, Prepared, Sink};
pub use file::{FileMap, Output};
pub use request::{Choosing, KEEP, Request};

use crate::checkpoint::TensorSource;
use crate::weights::Weights;
use crate::{Error, Result};

/// All exporters; the first is the default.
pub static EXPORTERS: &[&dyn Exporter] = &[
    &gguf::Gguf,
    &safetensors::Safetensors,
    &packed::PackedExporter(&packed::Gptq),
    &packed::PackedExporter(&packed::Awq),
    &compressed_tensors::CompressedTensorsFolder,
    #[cfg(test)]
    &toy::Toy,
];

/// The exporter of this name.
///
/// # Errors
/// If there is none; the error lists all exporters.
pub fn by_name(name: &str) -> Result<&'static dyn Exporter> {
    EXPORTERS.iter().copied().find(|e| e.about().name == name).ok_or_else(|| {
        let names: Vec<_> = EXPORTERS.iter().map(|e| e.about().name).collect();
        Error::setting("format", name, format!("unknown; known: {}", names.join(", ")))
    })
}

/// Whether a format takes everything that is set.
///
/// # Errors
/// If a setting or an option is another format's, or nobody's, or an option has a value that it cannot have.
pub(crate) fn check(exporter: &dyn Exporter, request: &Request) -> Result<()> {
    let format = exporter.about();
    if let Some(name) = request.given().into_iter().find(|name| !format.settings.contains(name)) {
        return Err(foreign(format, name, |other| other.settings.contains(&name)));
    }
    let own = |about: &About, name: &str| about.options.iter().find(|o| o.name == name);
    if let Some((name, value)) = request.options.iter().find(|(name, _)| own(format, name).is_none()) {
        let known = EXPORTERS.iter().find_map(|e| own(e.about(), name));
        let Some(option) = known else {
            let what = format!("`format` {} has no such option; it has {}", format.name, names(format));
            return Err(Error::setting(format!("format.{name}"), value, what));
        };
        return Err(foreign(format, option.called(value), |other| own(other, name).is_some()));
    }
    format.options_in(request).map(drop)
}

/// All that can be set of a format.
fn names(format: &About) -> String {
    let all = format.settings.iter().copied().chain(format.options.iter().flat_map(|option| option.names()));
    all.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The refusal of what only other formats take.
fn foreign(format: &About, name: &str, takes: impl Fn(&About) -> bool) -> Error {
    let takers = EXPORTERS.iter().map(|e| e.about()).filter(|about| takes(about));
    let takers = takers.map(|about| about.title).collect::<Vec<_>>().join(", ");
    let what = format!("`{name}` is only for {takers}; `format` {} takes {}", format.name, names(format));
    Error::conflict([name, "format"], what)
}

/// Which type every matrix is to have, of settings that the format takes.
///
/// # Errors
/// If a setting is another format's or nobody's, and those of the exporter.
pub fn assign(
    exporter: &dyn Exporter,
    request: &Request,
    source: &dyn TensorSource,
    weights: &Weights<'_>,
) -> Result<Assigned> {
    check(exporter, request)?;
    exporter.assign(request, source, weights)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Setting;

    /// The command line has one flag for all formats that share an option, and one help.
    #[test]
    fn options_of_one_name_are_one_thing() {
        let all: Vec<_> = EXPORTERS.iter().flat_map(|e| e.about().options).collect();
        for (i, a) in all.iter().enumerate() {
            assert!(a.parse(a.default).is_ok(), "{}: its default {}", a.name, a.default);
            for b in &all[..i] {
                if a.names().any(|name| b.names().any(|other| name == other)) {
                    assert_eq!((a.name, a.about), (b.name, b.about));
                    assert_eq!(std::mem::discriminant(&a.kind), std::mem::discriminant(&b.kind), "{}", a.name);
                }
            }
        }
    }

    #[test]
    fn what_a_format_does_not_take_is_refused_with_who_does() {
        let of = |format: &str, name: &str, value: Setting| {
            let request = Request { options: [(name.to_owned(), value)].into(), ..Request::default() };
            check(by_name(format).unwrap(), &request).map_err(|e| e.to_string())
        };
        for (format, name, value, words) in [
            ("gguf", "bits", Setting::Count(4), &["`bits` is only for GPTQ, AWQ", "`format` gguf takes `type`"][..]),
            ("safetensors", "sym", Setting::Flag(false), &["`asym` is only for GPTQ", "`shard_size`"]),
            (
                "gptq",
                "bitz",
                Setting::Count(4),
                &["`format.bitz` 4: `format` gptq has no such option", "`bits`, `group_size`, `sym`, `asym`"],
            ),
            ("gptq", "type", Setting::Count(4), &["`format.type` 4: `format` gptq has no such option"]),
            ("gptq", "bits", Setting::Count(5), &["`bits` 5: must be one of 4, 8"]),
            ("awq", "bits", Setting::Count(8), &["`bits` 8: must be 4"]),
        ] {
            let error = of(format, name, value).unwrap_err();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
        assert!(of("gptq", "bits", Setting::Count(8)).is_ok());
        let request = Request { pure: true, ..Request::default() };
        let error = check(by_name("awq").unwrap(), &request).unwrap_err().to_string();
        assert!(error.contains("`pure` is only for GGUF; `format` awq takes `bits`"), "{error}");
    }
}
