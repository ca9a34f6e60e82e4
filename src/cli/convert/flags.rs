//! From flags to a recipe. Flags override a recipe file.

use crate::cli::args::{Convert, FormatArgs as Flags};
use crate::cli::text::calibration;
use crate::recipe::{Format, Importance, PassSpec, Propagate, Recipe, TensorType};
use crate::{Error, Result};

/// The recipe that the flags ask for.
///
/// # Errors
/// If a recipe file cannot be read, or flags conflict.
pub(super) fn recipe(args: &Convert) -> Result<Recipe> {
    let mut recipe = match (&args.recipe, &args.model) {
        (Some(file), None) => Recipe::load(file)?,
        (Some(file), Some(model)) => Recipe { model: model.clone(), ..Recipe::load(file)? },
        (None, model) => Recipe::new(model.as_deref().expect("clap asks for one of the two")),
    };
    let given = |flag: &Option<String>, setting: &mut Option<String>| {
        if flag.is_some() {
            setting.clone_from(flag);
        }
    };
    given(&args.file_type, &mut recipe.file_type);
    given(&args.output_type, &mut recipe.output_type);
    given(&args.embedding_type, &mut recipe.embedding_type);
    given(&args.pre, &mut recipe.pre);
    recipe.pure |= args.pure;
    recipe.allow_requantize |= args.allow_requantize;
    let types = args.tensor_type.iter().cloned().map(|(pattern, name)| TensorType { pattern, name });
    // The first match wins.
    recipe.tensor_types.splice(0..0, types);
    if let Some(path) = &args.imatrix {
        recipe.importance = Some(Importance::File(path.clone()));
    } else if args.calibrate {
        recipe.importance = Some(Importance::Calibrate);
    }
    if !args.remove.is_empty() {
        recipe.remove.clone_from(&args.remove);
    }
    recipe.no_compensate |= args.no_compensate;
    if args.stats.is_some() {
        recipe.stats.clone_from(&args.stats);
    }
    match args.solving.propagate.as_deref() {
        Some("quantized") => recipe.propagate = Propagate::Quantized,
        Some(_) => recipe.propagate = Propagate::Float,
        None => {}
    }
    format(&args.format, &mut recipe.format);
    calibration(&args.sampling, &mut recipe.text);
    passes(args, &mut recipe.passes)?;
    Ok(recipe)
}

fn passes(args: &Convert, passes: &mut Vec<PassSpec>) -> Result<()> {
    if let Some(method) = &args.method {
        *passes = method.split('+').map(|name| PassSpec::new(name.trim())).collect();
    }
    if args.solving.clip {
        match &passes[..] {
            [awq] if awq.name.eq_ignore_ascii_case("awq") => passes.push(PassSpec::new("clip")),
            _ => {
                let method = args.method.as_deref().unwrap_or("rtn");
                let what = format!("`clip` works only with `method` awq; {method} finds its own ranges");
                return Err(Error::conflict(["clip", "method"], what));
            }
        }
    }
    args.solving.options.apply(passes)
}

fn format(flags: &Flags, format: &mut Format) {
    if let Some(name) = &flags.format {
        // Options of another format do not apply to this one.
        if *name != format.name {
            format.options.clear();
        }
        format.name.clone_from(name);
    }
    flags.options.apply(format);
}
