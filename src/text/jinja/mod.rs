//! Jinja as transformers sets it up: the engine, and what Python's has beyond it.

mod args;
mod clock;
mod filters;
mod floats;
mod json;
mod methods;
mod printf;
mod repr;
mod scan;
mod source;
mod strings;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind};

pub(in crate::text) use self::source::prepare;

/// Instructions that one rendering may take: a long conversation takes some ten thousand, a hostile template any
/// number.
const FUEL: u64 = 10_000_000;

/// Blocks swallow the newline behind them and the indentation before them, Python's methods work, `raise_exception`
/// refuses a conversation, and the clock stands still. Nothing that a template does can read files or the time.
pub(in crate::text) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the usual delimiters"));
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(methods::call);
    environment.add_function("raise_exception", |what: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, what))
    });
    environment.add_function("strftime_now", |format: &str| clock::strftime_now(format));
    environment.add_filter("tojson", json::tojson);
    filters::add(&mut environment);
    environment
}
