//! Chat templates: one text, or several with names, from whichever file has them.

use std::fs;

use serde_json::Value as Json;

use super::files::Files;
use super::read::{read_small_json, read_text};
use super::vocab::texts;
use crate::Result;
use crate::gguf::{Metadata, Value};

const KEY: &str = "tokenizer.chat_template";

/// The folder of templates beyond the default one.
pub(crate) const MORE_TEMPLATES: &str = "additional_chat_templates";

/// Templates by name; the one without is "default".
type Named = Vec<(String, String)>;

/// Writes the templates, and returns them: the default one, and the others under their names with a list of these.
///
/// As in transformers, files of their own (chat_template.jinja, additional_chat_templates/) come before
/// tokenizer_config.json; chat_template.json is the last. Of several sources one is used, and told.
pub(super) fn write(files: &Files, out: &mut Metadata, notes: &mut Vec<String>) -> Result<Vec<String>> {
    let sources = [
        ("chat_template.jinja", beside(files)?),
        ("tokenizer_config.json", files.setting("chat_template").map_or_else(Vec::new, |t| parse(t, notes))),
        ("chat_template.json", processor(files, notes)?),
    ];
    let mut present = sources.into_iter().filter(|(_, templates)| !templates.is_empty());
    let Some((used, mut templates)) = present.next() else { return Ok(Vec::new()) };
    for (other, _) in present.filter(|(_, other)| differ(&templates, other)) {
        notes.push(format!(
            "{used} and {other} have different chat templates; that of {used} is used, as transformers does"
        ));
    }
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
    if let Some(template) = &default {
        out.set(KEY, Value::String(template.clone()));
    }
    Ok(templates.into_iter().map(|(_, template)| template).chain(default).collect())
}

/// Whether the second source says something else under a name that both have, or has another name. A newline at the end
/// is nothing to Jinja.
fn differ(used: &Named, other: &Named) -> bool {
    let end = |text: &str| text.strip_suffix('\n').unwrap_or(text).to_owned();
    other.iter().any(|(name, text)| !used.iter().any(|(n, t)| n == name && end(t) == end(text)))
}

/// A text, or `[{"name": .., "template": ..}]`.
fn parse(value: &Json, notes: &mut Vec<String>) -> Named {
    match value {
        Json::String(text) => vec![("default".to_owned(), newlines(text))],
        Json::Array(items) => items
            .iter()
            .filter_map(|item| {
                let name = item.get("name")?.as_str()?;
                Some((key_part(name), newlines(item.get("template")?.as_str()?)))
            })
            .collect(),
        Json::Object(named) => {
            named.iter().filter_map(|(name, text)| Some((key_part(name), newlines(text.as_str()?)))).collect()
        }
        _ => {
            notes.push("chat_template is neither a text nor a list of named texts; left out".into());
            Vec::new()
        }
    }
}

/// Jinja reads every end of a line as a newline; not all who render templates do.
fn newlines(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// A name that can be part of a key.
fn key_part(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// Templates in files of their own.
fn beside(files: &Files) -> Result<Named> {
    let mut templates = Vec::new();
    if let Some(text) = read_text(&files.path("chat_template.jinja"))? {
        templates.push(("default".to_owned(), newlines(&text)));
    }
    let Ok(entries) = fs::read_dir(files.path(MORE_TEMPLATES)) else { return Ok(templates) };
    let mut paths: Vec<_> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    // The order of the file must not depend on that of the directory.
    paths.sort();
    for path in paths {
        let jinja = path.extension().is_some_and(|e| e == "jinja");
        let name = path.file_stem().and_then(|s| s.to_str()).filter(|_| jinja);
        if let (Some(name), Some(text)) = (name, read_text(&path)?) {
            templates.push((key_part(name), newlines(&text)));
        }
    }
    Ok(templates)
}

/// The template of a processor, which is asked where the tokenizer has none.
fn processor(files: &Files, notes: &mut Vec<String>) -> Result<Named> {
    let json = read_small_json::<Json>(&files.path("chat_template.json"))?;
    let template = json.as_ref().and_then(|j| j.get("chat_template")).filter(|t| !t.is_null());
    Ok(template.map_or_else(Vec::new, |t| parse(t, notes)))
}
