//! The edits of a model: for each parameter a list, in the order in which they are applied. Owned, and independent of
//! any checkpoint; [`Weights::edited`](super::Weights::edited) checks them against one.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::edit::Edit;
use super::saved::{Saved, SavedEdit};
use crate::model::ParamId;

/// The edits of one parameter, each with the expert whose matrix it applies to.
type List = Vec<(Option<usize>, Arc<Edit>)>;

/// What is done to the parameters of a model, with remarks for the record. Cheap to clone: the edits are shared.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "Saved", into = "Saved")]
pub struct Edits {
    lists: BTreeMap<ParamId, List>,
    /// What was done to a parameter, in words.
    about: BTreeMap<ParamId, String>,
    /// Why something could not be done to a parameter.
    left: BTreeMap<ParamId, String>,
}

impl Edits {
    /// None.
    pub fn new() -> Edits {
        Edits::default()
    }

    /// Appends an edit. `expert`: the expert whose matrix (or bias) it applies to, where a parameter has one for each;
    /// `None`: all rows of the parameter. Successive factors become one edit (they are multiplied with each other
    /// before any weight is), and so do successive permutations.
    pub fn push(&mut self, id: ParamId, expert: Option<usize>, edit: Edit) {
        let list = self.lists.entry(id).or_default();
        // Edits of other experts do not touch this one's matrix.
        let before = list.iter_mut().rev().find(|(of, _)| *of == expert || of.is_none() || expert.is_none());
        if let Some((_, before)) = before.filter(|(of, _)| *of == expert) {
            let both = match (&**before, &edit) {
                (Edit::Scale(first), Edit::Scale(then)) => first.times(then).map(Edit::Scale),
                (Edit::Permute(first), Edit::Permute(then)) => first.then(then).map(Edit::Permute),
                _ => None,
            };
            if let Some(both) = both {
                *before = Arc::new(both);
                return;
            }
        }
        list.push((expert, Arc::new(edit)));
    }

    /// Appends all edits of another list, each as it is.
    pub fn append(&mut self, later: &Edits) {
        for (id, list) in &later.lists {
            self.lists.entry(*id).or_default().extend(list.iter().cloned());
        }
        self.about.extend(later.about.iter().map(|(id, text)| (*id, text.clone())));
        self.left.extend(later.left.iter().map(|(id, text)| (*id, text.clone())));
    }

    /// The same for a model whose parameter i is this one's `from[i]`.
    pub(super) fn renumbered(&self, from: &[ParamId]) -> Edits {
        let ids = || from.iter().enumerate().map(|(i, id)| (ParamId(i), id));
        Edits {
            lists: ids().filter_map(|(to, id)| Some((to, self.lists.get(id)?.clone()))).collect(),
            about: ids().filter_map(|(to, id)| Some((to, self.about.get(id)?.clone()))).collect(),
            left: ids().filter_map(|(to, id)| Some((to, self.left.get(id)?.clone()))).collect(),
        }
    }

    /// Drops the edits and remarks of all parameters for which `of` is false.
    pub fn retain(&mut self, mut of: impl FnMut(ParamId) -> bool) {
        self.lists.retain(|id, _| of(*id));
        self.about.retain(|id, _| of(*id));
        self.left.retain(|id, _| of(*id));
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    /// The parameters that have edits.
    pub fn params(&self) -> impl Iterator<Item = ParamId> + '_ {
        self.lists.keys().copied()
    }

    /// The edits of a parameter in order, each with the expert whose matrix it applies to.
    pub fn of(&self, id: ParamId) -> impl Iterator<Item = (Option<usize>, &Arc<Edit>)> {
        self.lists.get(&id).into_iter().flatten().map(|(expert, edit)| (*expert, edit))
    }

    /// Says in words, for the record, what is done to a parameter; the last remark counts.
    pub fn explain(&mut self, id: ParamId, text: impl Into<String>) {
        self.about.insert(id, text.into());
    }

    /// What is done to a parameter, in words.
    pub fn about(&self, id: ParamId) -> Option<&str> {
        self.about.get(&id).map(String::as_str)
    }

    /// Says why what was wanted of a parameter is not done.
    pub fn leave(&mut self, id: ParamId, why: impl Into<String>) {
        self.left.insert(id, why.into());
    }

    /// Why what was wanted of a parameter is not done.
    pub fn left(&self, id: ParamId) -> Option<&str> {
        self.left.get(&id).map(String::as_str)
    }
}

impl From<Edits> for Saved {
    fn from(edits: Edits) -> Saved {
        let each = |(id, list): (&ParamId, &List)| {
            let id = id.0;
            list.iter().map(move |(expert, edit)| (id, *expert, SavedEdit::from(&**edit))).collect::<Vec<_>>()
        };
        let texts = |texts: BTreeMap<ParamId, String>| texts.into_iter().map(|(id, text)| (id.0, text)).collect();
        Saved { edits: edits.lists.iter().flat_map(each).collect(), about: texts(edits.about), left: texts(edits.left) }
    }
}

impl TryFrom<Saved> for Edits {
    type Error = String;

    fn try_from(saved: Saved) -> Result<Edits, String> {
        let texts = |texts: Vec<(usize, String)>| texts.into_iter().map(|(id, text)| (ParamId(id), text)).collect();
        let mut edits = Edits { lists: BTreeMap::new(), about: texts(saved.about), left: texts(saved.left) };
        for (id, expert, edit) in saved.edits {
            edits.lists.entry(ParamId(id)).or_default().push((expert, Arc::new(edit.try_into()?)));
        }
        Ok(edits)
    }
}
