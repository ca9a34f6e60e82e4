//! What the words of a recipe stand for, and whether they go together. Reads no files but texts.

use aurora_quantizers::spec::Kind;
use regex::Regex;

use crate::calibrate::dataset::{Choice, Dataset};
use crate::checkpoint::TensorSource;
use crate::export::{self, Assigned, Choosing, Exporter, Request};
use crate::model::{Model, ModelGraph};
use crate::options::Options;
use crate::passes::{self, CODES, JOINT, Pass, REFERENCE, RTN, SCALES, StatsKind};
use crate::pipeline::remove::Parts;
use crate::plan::{self, Plan};
use crate::recipe::{Importance, PassSpec, Propagate, Recipe, Text};
use crate::text::Tokenizer;
use crate::{Error, Result};

/// Default number of tokens per sample: that of llama-imatrix.
const CONTEXT: usize = 512;

/// What was asked for, looked up.
pub(super) struct Asked {
    /// Names of the passes, joined by +.
    pub method: String,
    /// The passes. If they need statistics, rounding to nearest is the last one; otherwise it is left out.
    pub passes: Vec<Box<dyn Pass>>,
    /// Whether the passes need statistics of linear layers' inputs.
    pub solves: bool,
    /// Whether one of them makes weights zero.
    pub prunes: bool,
    /// Scales by ggml's formula.
    pub reference: bool,
    /// Whether every weight is rounded on its own.
    pub nearest: bool,
    /// The format.
    pub exporter: &'static dyn Exporter,
    /// What is asked of the output.
    pub request: Request,
    /// What is removed first.
    pub removal: Option<Parts>,
}

impl Asked {
    /// Looks everything up.
    pub fn of(recipe: &Recipe) -> Result<Asked> {
        let mut passes = passes::chain(&recipe.passes)?;
        let named: Vec<&str> = recipe.passes.iter().map(|spec| spec.name.as_str()).collect();
        // After other passes, rounding to nearest goes without saying.
        let others: Vec<&str> = named.iter().copied().filter(|name| !name.eq_ignore_ascii_case(RTN)).collect();
        let solves = passes[..passes.len() - 1].iter().any(|pass| pass.needs() != StatsKind::None.into());
        let prunes = passes.iter().any(|pass| pass.prunes().is_some());
        if !solves && !prunes {
            // Passes that look only at weights leave rounding to the conversion, which needs no block loop.
            passes.pop();
        }
        let rtn = recipe.passes.iter().find(|spec| spec.name.eq_ignore_ascii_case(RTN)).cloned();
        let rtn = rtn.unwrap_or_else(|| PassSpec::new(RTN));
        let options = Options::of("`method` rtn", passes::row(RTN)?.options, &rtn.options)?;
        let reference = options.word(SCALES.name, &REFERENCE);
        let exporter = export::by_name(&recipe.format.name)?;
        let codes = recipe.passes.iter().any(|spec| passes::row(&spec.name).is_ok_and(|row| row.solves));
        let request = request(recipe, solves, prunes.then_some(codes), reference)?;
        export::check(exporter, &request)?;
        let asked = Asked {
            method: if others.is_empty() { RTN.to_owned() } else { others.join("+") },
            passes,
            solves,
            prunes,
            reference,
            nearest: !options.word(CODES.name, &JOINT),
            exporter,
            request,
            removal: Parts::parse(&recipe.remove, !recipe.no_compensate)?,
        };
        asked.check(recipe)?;
        Ok(asked)
    }

    fn check(&self, recipe: &Recipe) -> Result<()> {
        let idle = [(recipe.importance.is_some(), setting(recipe.importance.as_ref())), (self.reference, "scales")];
        if let Some((_, setting)) = idle.iter().find(|(given, _)| (self.solves || self.prunes) && *given) {
            let what = format!("method {} finds its own statistics and scales; leave out `{setting}`", self.method);
            return Err(Error::conflict(["method", setting], what));
        }
        if recipe.no_compensate && self.removal.is_none() {
            return Err(Error::conflict(
                ["no_compensate", "remove"],
                "`no_compensate` says what becomes of the rest after `remove`; give both or leave it out",
            ));
        }
        let whole = [(recipe.stats.is_some(), "stats"), (self.request.choosing.imatrix, "importance.file")];
        if let Some((_, setting)) = whole.iter().find(|(given, _)| self.removal.is_some() && *given) {
            let what = format!(
                "the statistics of `{setting}` are of the whole model, and `remove` makes a smaller one: leave out \
                 `{setting}`, or remove first and collect statistics of the result"
            );
            return Err(Error::conflict(["remove", setting], what));
        }
        if recipe.stats.is_some() && (!self.solves || recipe.propagate != Propagate::Float) {
            return Err(Error::conflict(
                ["stats", "method"],
                "`stats` needs a `method` that calibrates and `propagate` float; for rounding to nearest use \
                 `importance.file`",
            ));
        }
        let Text { files, context, samples, .. } = &recipe.text;
        let given = !files.is_empty() || context.is_some() || samples.is_some();
        if given && !self.reads_text(recipe) {
            return Err(Error::conflict(
                ["text.files", "text.context", "text.samples", "importance.calibrate", "method"],
                "`text.files`, `text.context` and `text.samples` need `importance.calibrate`, or a `method` or \
                 `remove` that calibrates",
            ));
        }
        Ok(())
    }

    /// Refuses what would run the model and find nothing to do: methods and importances for codes, where no linear has
    /// any. `output`: what the types are called.
    pub fn refuse_idle(&self, recipe: &Recipe, output: &str, graph: &ModelGraph, plan: &Plan) -> Result<()> {
        let mut linears = graph.sites().into_iter().flat_map(|site| site.readers).map(|reader| reader.weight);
        if linears.any(|id| plan.tensors[id.0].spec().kind == Kind::Block) {
            return Ok(());
        }
        let pass = recipe.passes.iter().find(|spec| passes::row(&spec.name).is_ok_and(|row| row.for_codes));
        let idle = match (pass, &recipe.importance) {
            (Some(pass), _) => format!("`method` {}", pass.name),
            (None, Some(Importance::Calibrate)) => "`importance.calibrate`".to_owned(),
            _ => return Ok(()),
        };
        let what = format!(
            "{idle} is about codes, and all linears of this output ({output}) stay floats: leave it out, or choose \
             another `type` or `format`, such as q4_k_m in gguf"
        );
        Err(Error::conflict(["method", "type", "format"], what))
    }

    /// Where a file type would give a pruned matrix a type without an exact zero, as mixtures do to some, the matrix has
    /// the file type's base instead, if that has one.
    pub fn keep_zeros(&self, model: &Model, assigned: &mut Assigned) -> Result<()> {
        let base = assigned.rules.file_type.base();
        for targets in self.passes.iter().filter_map(|pass| pass.prunes()).filter(|_| base.has_zero()) {
            let plan = Plan::keeping(model, &assigned.rules, &assigned.kept)?;
            for (tensor, param) in plan.tensors.iter().zip(&model.graph.params) {
                if targets.about(&model.graph, tensor.param).is_some() && !tensor.store.has_zero() {
                    let name = Regex::new(&format!("^{}$", regex::escape(&param.name))).expect("an escaped name");
                    assigned.rules.overrides.push((name, base));
                }
            }
        }
        Ok(())
    }

    /// Refuses to prune what cannot be pruned so, or what the output would not keep at zero.
    pub fn check_pruning(&self, graph: &ModelGraph, plan: &Plan) -> Result<()> {
        for choice in self.passes.iter().filter_map(|pass| pass.prunes()) {
            choice.check(graph)?;
            for reader in graph.sites().into_iter().flat_map(|site| site.readers) {
                let (tensor, id) = (&plan.tensors[reader.weight.0], reader.weight);
                if choice.about(graph, id).is_some() && !tensor.store.has_zero() {
                    let what = format!(
                        "{} would be {}, which has no exact zero: pruned weights would come back as small numbers. \
                         Choose a `type` that has (q4_0, q5_0, q8_0, q6_k, q3_k_s, mxfp4, f16), or leave the matrix \
                         whole with `prune` {}=0",
                        tensor.name,
                        tensor.spec().name,
                        tensor.name
                    );
                    return Err(Error::conflict(["method", "type"], what));
                }
            }
        }
        Ok(())
    }

    /// Whether the model is run over a text.
    pub fn reads_text(&self, recipe: &Recipe) -> bool {
        (self.solves && recipe.stats.is_none())
            || recipe.importance == Some(Importance::Calibrate)
            || self.removal.as_ref().is_some_and(Parts::runs)
    }
}

/// What a recipe asks of the output.
fn request(recipe: &Recipe, solves: bool, pruned: Option<bool>, reference: bool) -> Result<Request> {
    let store =
        |setting: &str, name: &Option<String>| name.as_deref().map(|name| plan::tensor_type(setting, name)).transpose();
    let tensor_types = recipe.tensor_types.iter().map(|t| {
        let regex = Regex::new(&t.pattern).map_err(|e| Error::Setting {
            setting: "tensor_types".to_owned(),
            value: t.pattern.clone(),
            what: "not a regular expression".to_owned(),
            source: Some(e.into()),
        })?;
        Ok((regex, plan::tensor_type("tensor_types", &t.name)?))
    });
    Ok(Request {
        file_type: recipe.file_type.clone(),
        pure: recipe.pure,
        output_type: store("output_type", &recipe.output_type)?,
        embedding_type: store("embedding_type", &recipe.embedding_type)?,
        tensor_types: tensor_types.collect::<Result<_>>()?,
        remove: !recipe.remove.is_empty(),
        pre: recipe.pre.clone(),
        options: recipe.format.options.clone(),
        choosing: Choosing {
            method: solves,
            pruned,
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
