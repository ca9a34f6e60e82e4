//! What llama-quantize made of the fixtures without `--pure`: `fixtures/ref-blocks/mixtures.json`.

use std::collections::BTreeMap;

use serde_json::Value as Json;

/// All of it: `{model or shape: {mixture: row}}`, the mixture with a "+" where importances were given.
pub fn recorded() -> serde_json::Map<String, Json> {
    let path = super::fixtures().join("ref-blocks/mixtures.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Holds the types of a plan or file against a row; `what` begins every message.
pub fn assert_types(what: &str, tensors: impl Iterator<Item = (String, String)>, row: &Json) {
    let mut others = BTreeMap::new();
    for (ty, names) in row["others"].as_object().unwrap() {
        for (name, blocks) in names.as_object().unwrap() {
            match blocks.as_array().unwrap().as_slice() {
                [] => _ = others.insert(name.clone(), ty.as_str()),
                blocks => others.extend(blocks.iter().map(|i| (format!("blk.{i}.{name}"), ty.as_str()))),
            }
        }
    }
    let usual = row["usual"].as_str().unwrap();
    let (mut floats, mut faults) = (0, Vec::new());
    for (name, ours) in tensors {
        let (ours, theirs) = (ours.to_uppercase(), others.remove(&name));
        if theirs.is_none() && ours == "F32" {
            floats += 1;
        } else if ours != theirs.unwrap_or(usual) {
            faults.push(format!("{name}: {ours}, llama-quantize {}", theirs.unwrap_or(usual)));
        }
    }
    assert!(faults.is_empty(), "{what}: {} tensors differ\n  {}", faults.len(), faults.join("\n  "));
    assert_eq!(row["f32"], floats, "{what}: tensors that stay F32");
    assert!(others.is_empty(), "{what}: not there: {others:?}");
}
