//! The real binary, run.

use std::process::{Command, Output};

/// The binary, without arguments yet.
pub fn aurora() -> Command {
    Command::new(env!("CARGO_BIN_EXE_aurora-quant"))
}

/// What it does with these arguments.
pub fn run(arguments: &[&str]) -> Output {
    aurora().args(arguments).output().expect("the binary starts")
}

/// A run that must go well.
pub fn good(arguments: &[&str]) -> Output {
    let out = run(arguments);
    assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    out
}

/// What a run that must go well prints.
pub fn printed(arguments: &[&str]) -> String {
    String::from_utf8(good(arguments).stdout).unwrap()
}

/// The message of a run that must fail.
pub fn refused(arguments: &[&str]) -> String {
    let out = run(arguments);
    assert_eq!(out.status.code(), Some(1), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stderr).unwrap()
}
