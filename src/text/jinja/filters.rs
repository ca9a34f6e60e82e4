//! Filters, tests and functions that Jinja has and the engine has not, or has otherwise.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use minijinja::value::{ArgType, Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, State, Value, context, functions};
use regex::Regex;

use super::args::{Args, fault};
use super::printf;
use super::repr::text;
use super::source::{EACH, PERCENT};
use super::strings::is_space;

type Given = Rest<ValueOrKwargs>;

static WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\w+").expect("a valid pattern"));

/// Adds them, and takes away what would silently give another text.
pub(super) fn add(environment: &mut Environment<'static>) {
    environment.add_filter(PERCENT, percent);
    environment.add_filter(EACH, each);
    environment.add_filter("format", |text: &str, given: Given| format(text, &given.into_values()));
    environment.add_filter("trim", trim);
    environment.add_filter("replace", replace);
    environment.add_filter("indent", indent);
    environment.add_filter("center", center);
    environment.add_filter("escape", escape);
    environment.add_filter("e", escape);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("string", |value: &Value| text(value));
    environment.add_filter("wordcount", |text: &str| WORD.find_iter(text).count());
    environment.add_filter("length", length);
    environment.add_filter("count", length);
    environment.remove_filter("pprint");
    environment.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String | ValueKind::Undefined)
    });
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    environment.add_test("callable", |value: &Value| matches!(value.kind(), ValueKind::Plain | ValueKind::Undefined));
    environment.add_function("namespace", namespace);
    environment.set_formatter(|out, _, value| {
        if value.is_undefined() { Ok(()) } else { out.write_str(&text(value)).map_err(Error::from) }
    });
}

/// What a loop goes through, with a length where Python knows one.
fn each(value: &Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Undefined | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => Ok(value.clone()),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            Ok(text.chars().map(|c| Value::from(c.to_string())).collect::<Vec<_>>().into())
        }
        kind => Err(fault(format!("{kind} cannot be looped over"))),
    }
}

/// `left % right`: a text with places for values, or a remainder.
fn percent(state: &State, left: &Value, right: &Value) -> Result<Value, Error> {
    let Some(text) = left.as_str() else {
        let remainder = state.env().compile_expression("left % right")?;
        return remainder.eval(context! { left, right });
    };
    let values = if right.is_tuple() { right.try_iter()?.collect() } else { vec![right.clone()] };
    printf::format(text, &values).map(Value::from)
}

fn format(text: &str, given: &[Value]) -> Result<String, Error> {
    printf::format(text, given)
}

fn length(value: &Value) -> Result<usize, Error> {
    match value.len() {
        _ if value.is_undefined() => Ok(0),
        Some(length) => Ok(length),
        None if value.kind() == ValueKind::Iterable => Ok(value.try_iter()?.count()),
        None => Err(fault(format!("a {} has no length", value.kind()))),
    }
}

fn trim(value: &Value, given: Given) -> Result<String, Error> {
    let given = given.into_values();
    let args = Args::bind("trim", &["chars"], &given)?;
    let chars = args.maybe_text(0)?;
    let strips = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    Ok(text(value).trim_matches(strips).to_owned())
}

fn replace(value: &Value, given: Given) -> Result<String, Error> {
    let given = given.into_values();
    let args = Args::bind("replace", &["old", "new", "count"], &given)?;
    let count = args.number(2)?.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    Ok(text(value).replacen(&text(args.need(0)?), &text(args.need(1)?), count))
}

fn indent(value: &str, given: Given) -> Result<String, Error> {
    let given = given.into_values();
    let args = Args::bind("indent", &["width", "first", "blank"], &given)?;
    let indent = match args.get(0) {
        None => " ".repeat(4),
        Some(width) => match width.as_str() {
            Some(width) => width.to_owned(),
            None => " ".repeat(args.number(0)?.unwrap_or(4).clamp(0, 1 << 10) as usize),
        },
    };
    let mut lines = value.split('\n');
    let mut out = if args.flag(1) { indent.clone() } else { String::new() };
    out.push_str(lines.next().unwrap_or_default());
    for line in lines {
        out.push('\n');
        if args.flag(2) || !line.is_empty() {
            out.push_str(&indent);
        }
        out.push_str(line);
    }
    Ok(out)
}

fn escape(value: &Value) -> String {
    let mut out = String::new();
    for c in text(value).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    out
}

fn center(value: &Value, width: Option<i64>) -> Result<Value, Error> {
    super::strings::call(&text(value), "center", &[Value::from(width.unwrap_or(80))])
}

fn int(value: &Value, given: Given) -> Result<Value, Error> {
    let given = given.into_values();
    let args = Args::bind("int", &["default", "base"], &given)?;
    let base = args.number(1)?.unwrap_or(10);
    let number = match value.as_str() {
        Some(text) => {
            let text = text.trim_matches(is_space);
            let whole = u32::try_from(base).ok().filter(|b| (2..=36).contains(b));
            let whole = whole.and_then(|base| i128::from_str_radix(&plain_digits(text)?, base).ok());
            whole.or_else(|| Some(plain_float(text)?.trunc() as i128))
        }
        None if value.is_integer() => return Ok(value.clone()),
        None => match value.kind() {
            ValueKind::Bool => Some(i128::from(value.is_true())),
            _ => f64::try_from(value.clone()).ok().filter(|x| x.is_finite()).map(|x| x.trunc() as i128),
        },
    };
    Ok(number.map_or_else(|| args.get(0).cloned().unwrap_or(Value::from(0)), Value::from))
}

fn float(value: &Value, given: Given) -> Result<Value, Error> {
    let given = given.into_values();
    let args = Args::bind("float", &["default"], &given)?;
    let number = match value.as_str() {
        Some(text) => plain_float(text.trim_matches(is_space)),
        None if value.kind() == ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        None => f64::try_from(value.clone()).ok(),
    };
    Ok(number.map_or_else(|| args.get(0).cloned().unwrap_or(Value::from(0.0)), Value::from))
}

/// Digits without the underscores that Python allows between them.
fn plain_digits(text: &str) -> Option<String> {
    let odd = text.starts_with('_') || text.ends_with('_') || text.contains("__");
    (!odd).then(|| text.replace('_', ""))
}

fn plain_float(text: &str) -> Option<f64> {
    plain_digits(text)?.parse().ok()
}

/// `namespace(dict, name=value)`, without names that could reach into Python.
fn namespace(given: Given) -> Result<Value, Error> {
    let mut entries = BTreeMap::new();
    for value in given.into_values() {
        for key in value.try_iter()? {
            let name = key.as_str().filter(|name| !name.starts_with('_'));
            let name = name.ok_or_else(|| fault(format!("a namespace cannot have {key}")))?.to_owned();
            entries.insert(name, value.get_item(&key)?);
        }
    }
    functions::namespace(Some(ValueOrKwargs::from_value(Some(&Value::from(entries)))?))
}
