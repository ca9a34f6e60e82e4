//! Chat templates: one text, or several with names, from whichever file has them.

use std::fs;

use serde_json::Value as Json;

use super::files::{Files, read_small_json, read_text};
use super::vocab::texts;
use crate::Result;
use crate::gguf::{Metadata, Value};

const KEY: &str = "tokenizer.chat_template";

/// Writes the templates: the default one, and the others under their names with a list of these.
/// tokenizer_config.json is asked first, then chat_template.jinja (with additional_chat_templates/), then
/// chat_template.json.
pub(super) fn write(files: &Files, out: &mut Metadata, notes: &mut Vec<String>) -> Result<()> {
    let mut templates = match files.setting("chat_template") {
        Some(template) => parse(template, notes),
        None => beside(files, notes)?,
    };
    let default = templates.iter().rposition(|(name, _)| name == "default").map(|i| templates.remove(i).1);
    templates.retain(|(name, _)| name != "default" && !name.is_empty());
    templates.sort();
    templates.dedup_by(|b, a| a.0 == b.0);
    for (name, template) in &templates {
        out.set(format!("{KEY}.{name}"), Value::String(template.clone()));
    }
    if !templates.is_empty() {
        out.set("tokenizer.chat_templates", texts(templates.iter().map(|(name, _)| name.as_str())));
    }
    if let Some(template) = default {
        out.set(KEY, Value::String(template));
    }
    Ok(())
}

/// A text, or `[{"name": .., "template": ..}]`.
fn parse(value: &Json, notes: &mut Vec<String>) -> Vec<(String, String)> {
    match value {
        Json::String(text) => vec![("default".to_owned(), text.clone())],
        Json::Array(items) => items
            .iter()
            .filter_map(|item| {
                let name = item.get("name")?.as_str()?;
                Some((key_part(name), item.get("template")?.as_str()?.to_owned()))
            })
            .collect(),
        _ => {
            notes.push("chat_template is neither a text nor a list of named texts; left out".into());
            Vec::new()
        }
    }
}

/// A name that can be part of a key.
fn key_part(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// Templates in files of their own, as transformers 4.43 and later write them.
fn beside(files: &Files, notes: &mut Vec<String>) -> Result<Vec<(String, String)>> {
    if let Some(text) = read_text(&files.path("chat_template.jinja"))? {
        let mut templates = vec![("default".to_owned(), text)];
        let Ok(entries) = fs::read_dir(files.path("additional_chat_templates")) else { return Ok(templates) };
        let mut paths: Vec<_> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
        // The order of the file must not depend on that of the directory.
        paths.sort();
        for path in paths {
            let jinja = path.extension().is_some_and(|e| e == "jinja");
            let name = path.file_stem().and_then(|s| s.to_str()).filter(|_| jinja);
            if let (Some(name), Some(text)) = (name, read_text(&path)?) {
                templates.push((key_part(name), text));
            }
        }
        return Ok(templates);
    }
    let json = read_small_json::<Json>(&files.path("chat_template.json"))?;
    let template = json.as_ref().and_then(|j| j.get("chat_template")).filter(|t| !t.is_null());
    Ok(template.map_or_else(Vec::new, |t| parse(t, notes)))
}
