//! What a recipe's words stand for, and whether they go together. Looks at no file but texts.

use aurora_quantizers::Store;
use regex::Regex;

use super::refuse;
use crate::calibrate::dataset::{Choice, Dataset};
use crate::checkpoint::TensorSource;
use crate::model::Model;
use crate::passes::{self, CODES, JOINT, Options, Pass, REFERENCE, RTN, SCALES};
use crate::plan::{self, FileType, Rules};
use crate::recipe::{Importance, PassSpec, Recipe, Text};
use crate::text::Tokenizer;
use crate::{Error, Result};

/// Tokens in a sample, unless a recipe says otherwise: llama-imatrix's.
const CONTEXT: usize = 512;

/// What was asked for, looked up.
pub(super) struct Asked {
    /// Names of the passes, joined by +.
    pub method: String,
    /// The passes, rounding to nearest last.
    pub passes: Vec<Box<dyn Pass>>,
    /// Whether there are other passes than rounding to nearest.
    pub solves: bool,
    /// Scales by ggml's formula.
    pub reference: bool,
    /// Every weight to its nearest level.
    pub nearest: bool,
    output: Option<&'static dyn Store>,
    embedding: Option<&'static dyn Store>,
    overrides: Vec<(Regex, &'static dyn Store)>,
}

impl Asked {
    /// Looks everything up.
    pub fn of(recipe: &Recipe) -> Result<Asked> {
        let passes = passes::chain(&recipe.passes)?;
        let named: Vec<&str> = recipe.passes.iter().map(|spec| spec.name.as_str()).collect();
        // Where it follows others, rounding to nearest goes without saying.
        let others: Vec<&str> = named.iter().copied().filter(|name| !name.eq_ignore_ascii_case(RTN)).collect();
        let solves = !others.is_empty();
        let rtn = recipe.passes.iter().find(|spec| spec.name.eq_ignore_ascii_case(RTN)).cloned();
        let rtn = rtn.unwrap_or_else(|| PassSpec::new(RTN));
        let options = Options::of(passes::row(RTN)?.options, &rtn.options).map_err(Error::setting)?;
        let spec = |name: &Option<String>| name.as_deref().map(plan::tensor_type).transpose();
        let overrides = recipe.tensor_types.iter().map(|t| {
            let regex = Regex::new(&t.pattern).map_err(|e| Error::setting(e.to_string()))?;
            Ok((regex, plan::tensor_type(&t.name)?))
        });
        let asked = Asked {
            method: if solves { others.join("+") } else { RTN.to_owned() },
            passes,
            solves,
            reference: options.word(SCALES.name, &REFERENCE),
            nearest: !options.word(CODES.name, &JOINT),
            output: spec(&recipe.output_type)?,
            embedding: spec(&recipe.embedding_type)?,
            overrides: overrides.collect::<Result<_>>()?,
        };
        asked.check(recipe)?;
        Ok(asked)
    }

    fn check(&self, recipe: &Recipe) -> Result<()> {
        let idle = [(recipe.importance.is_some(), setting(recipe.importance.as_ref())), (self.reference, "scales")];
        if let Some((_, setting)) = idle.iter().find(|(given, _)| self.solves && *given) {
            let what = format!("method {} makes its own statistics and scales; leave out `{setting}`", self.method);
            return refuse(what);
        }
        let Text { files, context, samples, .. } = &recipe.text;
        let given = !files.is_empty() || context.is_some() || samples.is_some();
        if given && !self.reads_text(recipe) {
            return refuse(
                "`text.files`, `text.context` and `text.samples` need `importance.calibrate`, or a `method` that calibrates",
            );
        }
        Ok(())
    }

    /// Whether the model is run over a text.
    pub fn reads_text(&self, recipe: &Recipe) -> bool {
        self.solves || recipe.importance == Some(Importance::Calibrate)
    }

    /// Which type each tensor is to have.
    pub fn rules(&self, recipe: &Recipe, file_type: &'static FileType) -> Rules {
        Rules {
            file_type,
            pure: recipe.pure,
            calibrated: recipe.importance.is_some() || self.solves,
            output: self.output,
            embedding: self.embedding,
            overrides: self.overrides.clone(),
        }
    }
}

/// How a recipe spells an importance.
pub(super) fn setting(importance: Option<&Importance>) -> &'static str {
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
