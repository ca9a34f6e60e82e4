//! Which matrices are pruned, and how much of each.

use std::collections::BTreeMap;
use std::sync::OnceLock;

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

/// By size.
pub const THRESHOLD: Opt = Opt {
    name: "threshold",
    about: "Pruning by size: weights below this become zero, however many they are; takes the place of sparsity. \
            `inspect --below` shows how many that are",
    kind: OptKind::Text { name: "X", check: is_size },
    default: "",
};

/// Among which weights.
pub const SCOPE: Opt = Opt {
    name: "scope",
    about: "Pruning: among which weights the share is counted. row: each output's own; matrix: all of a matrix; \
            global: those of all matrices together (only magnitude)",
    kind: OptKind::Word(&["row", "matrix", "global"]),
    default: "row",
};

/// Improving a mask.
pub const EXCHANGE: Opt = Opt {
    name: "exchange",
    about: "Pruning by scores: afterwards exchange up to N kept and pruned weights of each row, where that lowers the \
            loss on the text; slower, and closer to the solvers",
    kind: OptKind::Count(0, u64::MAX),
    default: "0",
};

/// How much each block gives.
pub const ALLOCATION: Opt = Opt {
    name: "allocation",
    about: "Pruning: how much goes of each block. uniform: the same of all; owl: less of blocks with more outliers, \
            which a run over the text counts first",
    kind: OptKind::Word(&["uniform", "owl"]),
    default: "uniform",
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

const SCOPES: [(&str, Option<Scope>); 3] =
    [("row", Some(Scope::Row)), ("matrix", Some(Scope::Matrix)), ("global", None)];

fn size_of(text: &str) -> Option<f32> {
    text.trim().parse().ok().filter(|x: &f32| x.is_finite() && *x > 0.0)
}

fn is_size(text: &str) -> std::result::Result<(), String> {
    size_of(text).map(|_| ()).ok_or_else(|| "must be a number above 0, such as 0.01".to_owned())
}

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

/// How the weights of a matrix that go are told from those that stay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    /// So many go, those with the lowest scores.
    Share(Sparsity),
    /// Those below a size go, and the first few of those that have it.
    Below(f32, usize),
}

/// What must be known of all matrices before the first is pruned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// The size below which the share of all weights lies.
    Sizes,
    /// How many outliers each block has.
    Outliers,
}

/// What a survey found out.
#[derive(Debug, Clone)]
pub enum Answer {
    /// A size, and how many of the weights that have it go, matrix by matrix.
    Size(f32, BTreeMap<Reader, usize>),
    /// The share that goes, block by block.
    Shares(Vec<f64>),
}

/// Which matrices are pruned, and how much of each.
#[derive(Debug, Clone)]
pub struct Targets {
    sparsity: Sparsity,
    threshold: Option<f32>,
    /// Among which weights of a matrix a share is counted, where it is counted within one.
    pub scope: Scope,
    survey: Option<Question>,
    found: OnceLock<Answer>,
    rules: Vec<Rule>,
    conflict: Option<([&'static str; 2], &'static str)>,
}

impl Targets {
    /// From the options of a pass; every option was checked when it was set. `has`: what the pass has besides
    /// [`SPARSITY`] and [`PRUNE`].
    pub fn of(options: &Options, has: &[Opt]) -> Targets {
        let has = |option: &Opt| has.iter().any(|o| o.name == option.name);
        let scope = if has(&SCOPE) { options.word(SCOPE.name, &SCOPES) } else { Some(Scope::Row) };
        let threshold = has(&THRESHOLD).then(|| size_of(options.text(THRESHOLD.name))).flatten();
        let owl = has(&ALLOCATION) && options.word(ALLOCATION.name, &[("uniform", false), ("owl", true)]);
        let sparsity = options.text(SPARSITY.name).parse().expect("a sparsity");
        let pattern = matches!(sparsity, Sparsity::Pattern { .. });
        let conflicts = [
            (
                threshold.is_some() && options.is_set(SPARSITY.name),
                [THRESHOLD.name, SPARSITY.name],
                "`threshold` and `sparsity` are two ways to say how many weights go; leave out one",
            ),
            (
                threshold.is_some() && options.is_set(SCOPE.name),
                [THRESHOLD.name, SCOPE.name],
                "`threshold` is the same everywhere, so `scope` has no share to count; leave out one",
            ),
            (
                scope.is_none() && !has(&THRESHOLD),
                [SCOPE.name, "method"],
                "`scope` global compares weights of different matrices, and only their sizes can be compared so; choose `method` \
                 magnitude",
            ),
            (
                scope.is_none() && pattern,
                [SCOPE.name, SPARSITY.name],
                "`scope` global counts a share, and a pattern N:M is the same in every row; choose a `sparsity` such as 50%",
            ),
            (
                owl && pattern,
                [ALLOCATION.name, SPARSITY.name],
                "`allocation` owl gives blocks different shares, and a pattern N:M is the same in all; choose a `sparsity` \
                 such as 50%",
            ),
        ];
        let survey = match (threshold, scope) {
            (None, None) => Some(Question::Sizes),
            _ => owl.then_some(Question::Outliers),
        };
        Targets {
            sparsity,
            threshold,
            scope: scope.unwrap_or(Scope::Matrix),
            survey,
            found: OnceLock::new(),
            rules: options.list(PRUNE.name).iter().map(|text| Rule::of(text).expect("a rule")).collect(),
            conflict: conflicts.iter().find(|(is, ..)| *is).map(|(_, settings, what)| (*settings, *what)),
        }
    }

    /// What goes of a matrix unless a survey says otherwise; `None` if it stays whole.
    pub fn about(&self, graph: &ModelGraph, id: ParamId) -> Option<Sparsity> {
        match self.rule(graph, id) {
            Some(rule) => rule.sparsity,
            None => self.is_usual(graph, id).then_some(self.sparsity),
        }
    }

    /// What goes of a matrix; `None` if it stays whole.
    ///
    /// # Panics
    /// If a survey is needed, and what it found is not [known](Targets::learn).
    pub fn amount(&self, graph: &ModelGraph, reader: Reader) -> Option<Amount> {
        let sparsity = self.about(graph, reader.weight)?;
        if self.rule(graph, reader.weight).is_some() {
            return Some(Amount::Share(sparsity));
        }
        let found = self.survey.map(|_| self.found.get().expect("a survey before the first matrix"));
        Some(match (self.threshold, found) {
            (Some(size), _) => Amount::Below(size, 0),
            (None, None) => Amount::Share(sparsity),
            (None, Some(Answer::Size(size, equal))) => Amount::Below(*size, equal.get(&reader).copied().unwrap_or(0)),
            (None, Some(Answer::Shares(shares))) => {
                let share = graph.param(reader.weight).block.and_then(|block| shares.get(block));
                Amount::Share(share.map_or(sparsity, |share| Sparsity::Share(*share)))
            }
        })
    }

    /// What must be found out about all matrices first, and the share that goes of them.
    pub fn survey(&self) -> Option<(Question, f64)> {
        Some((self.survey?, self.sparsity.share()))
    }

    /// The matrices that a survey is about.
    pub fn surveyed(&self, graph: &ModelGraph) -> Vec<Reader> {
        let readers = graph.sites().into_iter().flat_map(|site| site.readers);
        readers.filter(|r| self.rule(graph, r.weight).is_none() && self.is_usual(graph, r.weight)).collect()
    }

    /// Takes what a survey found; a second time, that is ignored.
    pub fn learn(&self, found: Answer) {
        self.found.get_or_init(|| found);
    }

    fn rule(&self, graph: &ModelGraph, id: ParamId) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.pattern.is_match(&graph.param(id).name))
    }

    fn is_usual(&self, graph: &ModelGraph, id: ParamId) -> bool {
        !matches!(graph.param(id).role, Role::Output | Role::Embedding | Role::Router)
    }

    /// Whether all that is asked for can be done.
    ///
    /// # Errors
    /// If options contradict each other, a pattern matches no matrix, or a sparsity N:M does not divide a matrix's rows.
    pub fn check(&self, graph: &ModelGraph) -> Result<()> {
        if let Some((settings, what)) = self.conflict {
            return Err(Error::conflict(settings, what));
        }
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
