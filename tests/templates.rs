//! Chat templates against what transformers renders: single constructs of the language, and templates with the
//! structure of those that well-known models have. tests/fixtures/templates/make_templates.py wrote the cases.

mod common;

use aurora_quant::text::{ChatTemplate, Conversation};
use serde_json::{Map, Value as Json};

/// Constructs that are refused here and not there: nobody has met them in a chat template.
const REFUSED: &[&str] = &[
    "macro-varargs",
    "joiner-cycler",
    "truncate",
    "filesizeformat",
    "striptags",
    "urlencode",
    "xmlattr",
    "pprint",
    "bit-length",
];

/// A method that is not called is a value there and nothing here.
const OTHER: &[&str] = &["method-value"];

/// Keys of a case that are no variables of its template.
const OWN: [&str; 7] = ["name", "template", "file", "messages", "tools", "text", "add_generation_prompt"];

#[test]
fn templates_render_as_transformers_renders_them() {
    let folder = common::plain_fixtures().join("templates");
    let all: Json = serde_json::from_slice(&std::fs::read(folder.join("cases.json")).unwrap()).unwrap();
    let (mut faults, mut rendered) = (Vec::new(), 0);
    for case in all["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let source = match case.get("file").and_then(Json::as_str) {
            Some(file) => std::fs::read_to_string(folder.join(file)).unwrap(),
            None => case["template"].as_str().unwrap().to_owned(),
        };
        let variables = case.as_object().unwrap().iter().filter(|(key, _)| !OWN.contains(&key.as_str()));
        let variables: Map<String, Json> = variables.map(|(key, value)| (key.clone(), value.clone())).collect();
        let line = serde_json::json!({
            "messages": all["chats"][case["messages"].as_str().unwrap()],
            "tools": case.get("tools").map(|_| &all["tools"]),
            "chat_template_kwargs": variables,
        });
        let conversation = Conversation::from_json(line.as_object().unwrap()).unwrap();
        let answer = case.get("add_generation_prompt").is_none_or(|add| add == true);
        let found = ChatTemplate::new(&source, "<s>", "</s>").and_then(|t| t.render(conversation, answer));
        let found = found.map_err(|e| e.to_string());
        let fits = match (&found, case["text"].as_str()) {
            _ if OTHER.contains(&name) => true,
            (Err(_), Some(_)) => REFUSED.contains(&name),
            (Err(_), None) => true,
            (Ok(text), Some(wanted)) => text == wanted && !REFUSED.contains(&name),
            (Ok(_), None) => false,
        };
        rendered += usize::from(found.is_ok());
        if !fits {
            faults.push(format!("{name}\n    found  {found:?}\n    wanted {:?}", case["text"].as_str()));
        }
    }
    assert!(faults.is_empty(), "{} of the cases differ:\n{}", faults.len(), faults.join("\n"));
    assert!(rendered > 350, "only {rendered} cases were rendered");
}

/// What Python would do with it is an error there too.
#[test]
fn templates_cannot_do_all_that_python_can() {
    for template in [
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'a': 1}) }}",
        "{{ messages[0].pop('role') }}",
        "{{ ''.__class__ }}{{ ''.__class__() }}",
        "{{ strftime_now('%Q') }}",
        "{{ strftime_now('100%') }}",
        "{{ 'a' * 99999999999 }}",
        "{{ 'a'.ljust(99999999999) }}",
        "{{ '%99999999999d' % 1 }}",
        "{{ '%.99999999999f' % 1 }}",
        "{{ '%*d' % (99999999999, 1) }}",
        "{{ '%99999999999d' | format(1) }}",
        "{{ '{:99999999999}'.format(1) }}",
        "{{ '{:}>99999999999}'.format(1) }}",
        "{{ '{:.99999999999f}'.format(1.5) }}",
        "{{ 'aaaaaaaa'.replace('', 'b' * 9999999) }}",
        "{{ '%d %d' % (1,) }}",
        "{{ '%d' % 'x' }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{{ [a] | tojson }}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% import 'x' as y %}",
    ] {
        let line = serde_json::json!({"messages": [{"role": "user", "content": "x"}]});
        let conversation = Conversation::from_json(line.as_object().unwrap()).unwrap();
        let rendered = ChatTemplate::new(template, "", "").and_then(|t| t.render(conversation, true));
        assert!(rendered.is_err(), "{template}: {rendered:?}");
    }
}

/// A token that a model does not have is undefined, not empty.
#[test]
fn tokens_without_a_text_are_undefined() {
    let line = serde_json::json!({"messages": [{"role": "user", "content": "x"}]});
    let render = |template: &str| {
        let conversation = Conversation::from_json(line.as_object().unwrap()).unwrap();
        ChatTemplate::new(template, "", "</s>").and_then(|t| t.render(conversation, true)).map_err(|e| e.to_string())
    };
    assert_eq!(render("{{ bos_token }}{{ bos_token is defined }}{{ eos_token }}"), Ok("False</s>".to_owned()));
    assert!(render("{{ bos_token + 'a' }}").is_err());
}
