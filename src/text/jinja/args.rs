//! Arguments of calls, given by place or by name.

use minijinja::{Error, ErrorKind, Value};

/// A fault of a call.
pub(super) fn fault(what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}

/// What was given for each of a call's arguments.
pub(super) struct Args(Vec<Option<Value>>);

impl Args {
    /// `given` for the arguments `names` of `call`.
    pub fn bind(call: &str, names: &[&str], given: &[Value]) -> Result<Self, Error> {
        let (named, placed) = match given.split_last() {
            Some((last, rest)) if last.is_kwargs() => (Some(last), rest),
            _ => (None, given),
        };
        if placed.len() > names.len() {
            let (most, found) = (names.len(), placed.len());
            return Err(Error::new(
                ErrorKind::TooManyArguments,
                format!("{call} takes {most} arguments, found {found}"),
            ));
        }
        let mut values: Vec<Option<Value>> = placed.iter().cloned().map(Some).collect();
        values.resize(names.len(), None);
        for key in named.into_iter().flat_map(|n| n.try_iter().into_iter().flatten()) {
            let at = names.iter().position(|n| key.as_str() == Some(n)).filter(|&at| values[at].is_none());
            let at = at.ok_or_else(|| fault(format!("{call} cannot be given {key}")))?;
            values[at] = named.map(|n| n.get_item(&key)).transpose()?;
        }
        Ok(Args(values))
    }

    /// An argument; none counts as not given.
    pub fn get(&self, at: usize) -> Option<&Value> {
        self.0.get(at)?.as_ref().filter(|v| !v.is_none())
    }

    /// An argument that must be there.
    pub fn need(&self, at: usize) -> Result<&Value, Error> {
        self.0.get(at).and_then(Option::as_ref).ok_or_else(|| Error::from(ErrorKind::MissingArgument))
    }

    /// A text that must be there.
    pub fn text(&self, at: usize) -> Result<&str, Error> {
        let value = self.need(at)?;
        value.as_str().ok_or_else(|| fault(format!("must be a string, found {}", value.kind())))
    }

    /// A text, if it is given.
    pub fn maybe_text(&self, at: usize) -> Result<Option<&str>, Error> {
        self.get(at).map(|_| self.text(at)).transpose()
    }

    /// A number, if it is given.
    pub fn number(&self, at: usize) -> Result<Option<i64>, Error> {
        let number = |v: &Value| v.as_i64().ok_or_else(|| fault(format!("must be an integer, found {v}")));
        self.get(at).map(number).transpose()
    }

    /// Whether a flag is given and true.
    pub fn flag(&self, at: usize) -> bool {
        self.get(at).is_some_and(Value::is_true)
    }
}
