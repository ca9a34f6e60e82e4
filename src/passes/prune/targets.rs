//! Which matrices are pruned, and how much of each.

use aurora_quantizers::prune::{Scope, Sparsity};
use regex::Regex;

use crate::model::{ModelGraph, ParamId, Reader, Role};
use crate::options::{Opt, OptKind, Options};
use crate::{Error, Result};

/// How much goes.
pub const SPARSITY: Opt = Opt {
    name: "sparsity",
    about: "Pruning: how many weights of each matrix become zero: 50%, 0.5, or 2:4 to keep 2 of every 4",
    kind: OptKind::Text { name: "SPARSITY", check: is_sparsity },
    default: "50%",
};

/// Among which weights.
pub const SCOPE: Opt = Opt {
    name: "scope",
    about: "Pruning: among which weights the share is counted. row: each output's own; matrix: all of a matrix",
    kind: OptKind::Word(&["row", "matrix"]),
    default: "row",
};

/// Exceptions.
pub const PRUNE: Opt = Opt {
    name: "prune",
    about: "Pruning: another sparsity for matrices whose name matches a regular expression, 0 to leave them whole; may \
            be repeated, the first match wins. Routers, embeddings and the output matrix are pruned only if they are \
            named here",
    kind: OptKind::List { name: "PATTERN=SPARSITY", check: is_rule },
    default: "",
};

const SCOPES: [(&str, Scope); 2] = [("row", Scope::Row), ("matrix", Scope::Matrix)];

fn is_sparsity(text: &str) -> std::result::Result<(), String> {
    text.parse::<Sparsity>().map(|_| ()).map_err(|e| e.to_string())
}

fn is_rule(text: &str) -> std::result::Result<(), String> {
    Rule::of(text).map(|_| ())
}

/// A sparsity for some matrices.
#[derive(Debug, Clone)]
struct Rule {
    text: String,
    pattern: Regex,
    /// Whole, if there is none.
    sparsity: Option<Sparsity>,
}

impl Rule {
    fn of(text: &str) -> std::result::Result<Rule, String> {
        let needed = "needed is PATTERN=SPARSITY, such as ffn_down=60%";
        let (pattern, sparsity) = text.rsplit_once('=').ok_or_else(|| needed.to_owned())?;
        let pattern = Regex::new(pattern).map_err(|e| format!("not a regular expression: {e}; {needed}"))?;
        let sparsity = match sparsity.trim() {
            "0" | "0%" => None,
            other => Some(other.parse::<Sparsity>().map_err(|e| e.to_string())?),
        };
        Ok(Rule { text: text.to_owned(), pattern, sparsity })
    }
}

/// Which matrices are pruned, and how much of each.
#[derive(Debug, Clone)]
pub struct Targets {
    sparsity: Sparsity,
    /// Among which weights of a matrix a share is counted.
    pub scope: Scope,
    rules: Vec<Rule>,
}

impl Targets {
    /// From the options of a pass; every option was checked when it was set.
    pub fn of(options: &Options, has_scope: bool) -> Targets {
        Targets {
            sparsity: options.text(SPARSITY.name).parse().expect("a sparsity"),
            scope: if has_scope { options.word(SCOPE.name, &SCOPES) } else { Scope::Row },
            rules: options.list(PRUNE.name).iter().map(|text| Rule::of(text).expect("a rule")).collect(),
        }
    }

    /// What goes of a matrix; `None` if it stays whole.
    pub fn about(&self, graph: &ModelGraph, id: ParamId) -> Option<Sparsity> {
        let param = graph.param(id);
        match self.rules.iter().find(|rule| rule.pattern.is_match(&param.name)) {
            Some(rule) => rule.sparsity,
            None if matches!(param.role, Role::Output | Role::Embedding | Role::Router) => None,
            None => Some(self.sparsity),
        }
    }

    /// Whether all that is asked for can be done.
    ///
    /// # Errors
    /// If a pattern matches no matrix, or a sparsity N:M does not divide a matrix's rows.
    pub fn check(&self, graph: &ModelGraph) -> Result<()> {
        let readers: Vec<Reader> = graph.sites().into_iter().flat_map(|site| site.readers).collect();
        for rule in &self.rules {
            if !readers.iter().any(|r| rule.pattern.is_match(&graph.param(r.weight).name)) {
                let what = "matches no matrix that inputs are multiplied with; names are those of GGUF, such as \
                            blk.0.ffn_down.weight";
                return Err(Error::setting(PRUNE.name, &rule.text, what));
            }
        }
        for reader in readers {
            let param = graph.param(reader.weight);
            if let Some(sparsity) = self.about(graph, reader.weight).filter(|s| !s.divides(param.cols())) {
                let what = format!(
                    "{}: rows of {} weights are no multiple of it; leave it whole with `{}` {}=0, or choose a share",
                    param.name,
                    param.cols(),
                    PRUNE.name,
                    param.name
                );
                return Err(Error::setting(SPARSITY.name, sparsity, what));
            }
        }
        Ok(())
    }
}
