//! What the words of a recipe stand for, and whether they go together. Reads no files but texts.

use regex::Regex;

use crate::calibrate::dataset::{Choice, Dataset};
use crate::checkpoint::TensorSource;
use crate::export::{Choosing, Request};
use crate::model::Model;
use crate::passes::{self, CODES, JOINT, Options, Pass, REFERENCE, RTN, SCALES, StatsKind};
use crate::plan;
use crate::recipe::{Importance, PassSpec, Propagate, Recipe, Setting, Text};
use crate::text::Tokenizer;
use crate::{Error, Result};

/// Default number of tokens per sample: that of llama-imatrix.
const CONTEXT: usize = 512;

/// What can be set of a format.
const FORMAT_OPTIONS: [&str; 4] = ["bits", "group_size", "sym", "shard_size"];

/// The request, with all names looked up.
pub(super) struct Asked {
    /// Names of the passes, joined by +.
    pub method: String,
    /// The passes. If they need statistics, rounding to nearest is the last one; otherwise it is left out.
    pub passes: Vec<Box<dyn Pass>>,
    /// Whether the passes need statistics of linear layers' inputs.
    pub solves: bool,
    /// Scales by ggml's formula.
    pub reference: bool,
    /// Whether every weight is rounded on its own.
    pub nearest: bool,
    /// What is asked of the output.
    pub request: Request,
}

impl Asked {
    /// Looks everything up.
    pub fn of(recipe: &Recipe) -> Result<Asked> {
        let mut passes = passes::chain(&recipe.passes)?;
        let named: Vec<&str> = recipe.passes.iter().map(|spec| spec.name.as_str()).collect();
        // After other passes, rounding to nearest goes without saying.
        let others: Vec<&str> = named.iter().copied().filter(|name| !name.eq_ignore_ascii_case(RTN)).collect();
        let solves = passes[..passes.len() - 1].iter().any(|pass| pass.needs() != StatsKind::None.into());
        if !solves {
            // Passes that look only at weights leave rounding to the conversion, which needs no block loop.
            passes.pop();
        }
        let rtn = recipe.passes.iter().find(|spec| spec.name.eq_ignore_ascii_case(RTN)).cloned();
        let rtn = rtn.unwrap_or_else(|| PassSpec::new(RTN));
        let options = Options::of(passes::row(RTN)?.options, &rtn.options).map_err(Error::setting)?;
        let reference = options.word(SCALES.name, &REFERENCE);
        let asked = Asked {
            method: if others.is_empty() { RTN.to_owned() } else { others.join("+") },
            passes,
            solves,
            reference,
            nearest: !options.word(CODES.name, &JOINT),
            request: request(recipe, solves, reference)?,
        };
        asked.check(recipe)?;
        Ok(asked)
    }

    fn check(&self, recipe: &Recipe) -> Result<()> {
        let idle = [(recipe.importance.is_some(), setting(recipe.importance.as_ref())), (self.reference, "scales")];
        if let Some((_, setting)) = idle.iter().find(|(given, _)| self.solves && *given) {
            let what = format!("method {} finds its own statistics and scales; leave out `{setting}`", self.method);
            return refuse(what);
        }
        if recipe.stats.is_some() && (!self.solves || recipe.propagate != Propagate::Float) {
            return refuse(
                "`stats` needs a `method` that calibrates and `propagate` float; for rounding to nearest use \
                 `importance.file`",
            );
        }
        let Text { files, context, samples, .. } = &recipe.text;
        let given = !files.is_empty() || context.is_some() || samples.is_some();
        if given && !self.reads_text(recipe) {
            return refuse(
                "`text.files`, `text.context` and `text.samples` need `importance.calibrate` or a `method` that \
                 calibrates",
            );
        }
        Ok(())
    }

    /// Whether the model is run over a text.
    pub fn reads_text(&self, recipe: &Recipe) -> bool {
        (self.solves && recipe.stats.is_none()) || recipe.importance == Some(Importance::Calibrate)
    }
}

/// What a recipe asks of the output.
fn request(recipe: &Recipe, solves: bool, reference: bool) -> Result<Request> {
    let store = |name: &Option<String>| name.as_deref().map(plan::tensor_type).transpose();
    let tensor_types = recipe.tensor_types.iter().map(|t| {
        let regex = Regex::new(&t.pattern).map_err(|e| Error::setting(e.to_string()))?;
        Ok((regex, plan::tensor_type(&t.name)?))
    });
    let set = &recipe.format.options;
    if let Some(name) = set.keys().find(|name| !FORMAT_OPTIONS.contains(&name.as_str())) {
        return refuse(format!("unknown setting `format.{name}`; known: {}", FORMAT_OPTIONS.join(", ")));
    }
    let count = |name: &str| match set.get(name) {
        None => Ok(None),
        Some(Setting::Count(n)) => Ok(Some(*n)),
        Some(other) => refuse(format!("`format.{name}` {other}: must be a whole number")),
    };
    let symmetric = match set.get("sym") {
        None => None,
        Some(Setting::Flag(on)) => Some(*on),
        Some(other) => return refuse(format!("`format.sym` {other}: must be true or false")),
    };
    Ok(Request {
        file_type: recipe.file_type.clone(),
        pure: recipe.pure,
        output_type: store(&recipe.output_type)?,
        embedding_type: store(&recipe.embedding_type)?,
        tensor_types: tensor_types.collect::<Result<_>>()?,
        pre: recipe.pre.clone(),
        bits: count("bits")?.map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
        group_size: count("group_size")?.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
        symmetric,
        shard_size: count("shard_size")?,
        choosing: Choosing {
            method: solves,
            imatrix: matches!(recipe.importance, Some(Importance::File(_))),
            calibrate: recipe.importance == Some(Importance::Calibrate),
            reference,
        },
    })
}

/// How a recipe spells an importance.
fn setting(importance: Option<&Importance>) -> &'static str {
    match importance {
        Some(Importance::File(_)) => "importance.file",
        _ => "importance.calibrate",
    }
}

/// The samples of the texts that a recipe names. `usual`: how many, unless it says.
///
/// # Errors
/// Those of the texts and of the tokenizer.
pub fn dataset(text: &Text, usual: Option<usize>, source: &dyn TensorSource, model: &Model) -> Result<Dataset> {
    let context = text.context.unwrap_or(CONTEXT.min(model.hyper.context));
    let choice = Choice { context, samples: text.samples.or(usual), seed: text.seed };
    Dataset::load(&text.files, &Tokenizer::open(source)?, choice)
}

/// An error about a setting or two. Names of settings stand in backticks, as recipes spell them.
fn refuse<T>(what: impl Into<String>) -> Result<T> {
    Err(Error::setting(what))
}
