//! Methods of Python's types, where Jinja lets them be called: those that change their object are refused there too.

use std::fmt;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, Tuple, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

use super::args::{Args, fault};
use super::strings;

/// Calls `method` of `value`.
pub(super) fn call(_: &mut State, value: &Value, method: &str, given: &[Value]) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String => strings::call(value.as_str().unwrap_or_default(), method, given),
        ValueKind::Map => of_map(value, method, given),
        ValueKind::Seq | ValueKind::Iterable => of_list(value, method, given),
        ValueKind::Number if method == "is_integer" => {
            Args::bind(method, &[], given)?;
            Ok(Value::from(f64::try_from(value.clone()).is_ok_and(|x| x.fract() == 0.0)))
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn of_map(value: &Value, method: &str, given: &[Value]) -> Result<Value, Error> {
    let bind = |names: &[&str]| Args::bind(method, names, given);
    let entry = |key: Value| Ok((key.clone(), value.get_item(&key)?));
    let entries = || value.try_iter()?.map(entry).collect::<Result<Vec<(Value, Value)>, Error>>();
    match method {
        "get" => {
            let args = bind(&["key", "default"])?;
            let key = args.need(0)?;
            // A value that is there may be none; one that is not is undefined.
            let found = value.get_item(key)?;
            Ok(if found.is_undefined() { args.get(1).cloned().unwrap_or(Value::from(())) } else { found })
        }
        "keys" => bind(&[]).and_then(|_| Ok(view("dict_keys", value.try_iter()?.collect()))),
        "values" => bind(&[]).and_then(|_| Ok(view("dict_values", entries()?.into_iter().map(|e| e.1).collect()))),
        "items" => bind(&[]).and_then(|_| {
            let pair = |(key, value)| Value::from(Tuple::from([key, value]));
            Ok(view("dict_items", entries()?.into_iter().map(pair).collect()))
        }),
        "copy" => bind(&[]).map(|_| value.clone()),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn of_list(value: &Value, method: &str, given: &[Value]) -> Result<Value, Error> {
    match method {
        "count" => {
            let args = Args::bind(method, &["value"], given)?;
            let wanted = args.need(0)?;
            Ok(Value::from(value.try_iter()?.filter(|item| item == wanted).count()))
        }
        "index" => {
            let args = Args::bind(method, &["value"], given)?;
            let wanted = args.need(0)?;
            let at = value.try_iter()?.position(|item| item == *wanted);
            at.map(Value::from).ok_or_else(|| fault(format!("{wanted} is not in the list")))
        }
        "copy" if !value.is_tuple() => Args::bind(method, &[], given).map(|_| value.clone()),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

/// A view of a dictionary, which can be gone through and shows its name when it is printed.
#[derive(Debug)]
struct View {
    name: &'static str,
    items: Vec<Value>,
}

fn view(name: &'static str, items: Vec<Value>) -> Value {
    Value::from_object(View { name, items })
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.items.clone())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({:?})", self.name, self.items)
    }
}
