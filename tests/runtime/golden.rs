//! Golden logits: those that transformers computed in f32.

use std::path::Path;

use aurora_quant::checkpoint;
use serde_json::Value as Json;
use tempfile::TempDir;

use crate::common::binary::printed;
use crate::common::checkpoint::Checkpoint;
use crate::common::{MODELS, changed, fixtures};
use crate::{EXACT, Golden, Opened, RuntimeOptions, apart, argmax, convert, fixture};

/// Two computations in f32 whose sums have another order; the golden ones were within 2e-5 of f64.
const TOLERANCE: f32 = 5e-4;

fn agrees(what: &str, opened: &Opened, golden: &Golden) {
    let options = RuntimeOptions { context: golden.tokens.len(), ..EXACT };
    let ours = opened.logits(options, &golden.tokens);
    let worst = apart(&ours, &golden.logits);
    let rows = ours.rows().into_iter().zip(golden.logits.rows());
    let wrong = rows.filter(|(a, b)| argmax(*a) != argmax(*b)).count();
    println!("{what}: {worst:.1e}");
    assert!(worst <= TOLERANCE && wrong == 0, "{what}: {worst:e}, {wrong} positions have another best token");
}

#[test]
fn checkpoints_are_golden() {
    for name in MODELS.iter() {
        agrees(name, &Opened::fixture(name), &Golden::of(name));
    }
}

#[test]
fn their_gguf_files_are_golden() {
    let dir = tempfile::tempdir().unwrap();
    for name in MODELS.iter() {
        let file = dir.path().join(format!("{name}.gguf"));
        convert(&fixture(name), "f32", &file);
        agrees(&format!("{name}.gguf"), &Opened::new(&file), &Golden::of(name));
    }
}

#[test]
fn long_text_with_a_window_is_golden() {
    let golden = Golden::read(&fixture("tiny-mistral").join("golden_long.safetensors"), "logits");
    agrees("tiny-mistral, long", &Opened::fixture("tiny-mistral"), &golden);
}

/// The same weights under other configurations: what no fixture has in its config.json.
#[test]
fn variants_are_golden() {
    let dir = fixtures().join("variants");
    let table: Json = serde_json::from_slice(&std::fs::read(dir.join("variants.json")).unwrap()).unwrap();
    for (name, variant) in table.as_object().unwrap() {
        let base = variant["base"].as_str().unwrap();
        let config = changed(base, variant["changes"].clone());
        let opened = Opened::described(checkpoint::open(&fixture(base)).unwrap(), &config);
        agrees(name, &opened, &Golden::read(&dir.join(format!("{name}.safetensors")), "logits"));
    }
}

/// The same through a GGUF file, and through the checkpoint that is made from that.
#[test]
fn variants_are_golden_from_gguf_files() {
    let (dir, place) = (fixtures().join("variants"), TempDir::new().unwrap());
    let table: Json = serde_json::from_slice(&std::fs::read(dir.join("variants.json")).unwrap()).unwrap();
    // llama.cpp's files of Mixtral have no window.
    for (name, variant) in table.as_object().unwrap().iter().filter(|(name, _)| *name != "mixtral-window") {
        let base = variant["base"].as_str().unwrap();
        let (input, file) = (place.path().join(name), place.path().join(format!("{name}.gguf")));
        Checkpoint::of(base).with(variant["changes"].clone()).write_as(base, &input);
        convert(&input, "f32", &file);
        let golden = Golden::read(&dir.join(format!("{name}.safetensors")), "logits");
        agrees(name, &Opened::new(&file), &golden);
        if name.ends_with("-yarn") {
            let folder = place.path().join(format!("{name}-again"));
            let words = ["--format", "safetensors", "-o", folder.to_str().unwrap(), file.to_str().unwrap()];
            printed(&[&["convert"], &words[..]].concat());
            agrees(name, &Opened::new(&folder), &golden);
        }
    }
}

fn json(path: &Path) -> Json {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn greedy_continuations_are_golden() {
    let ids = |list: &Json| list.as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as u32).collect::<Vec<_>>();
    for name in MODELS.iter() {
        let greedy = &json(&fixture(name).join("golden.json"))["greedy"];
        let (prompt, theirs) = (ids(&greedy["prompt_ids"]), ids(&greedy["new_ids"]));
        let ours: Vec<u32> = Opened::fixture(name).run(EXACT, |engine| {
            let mut session = engine.session();
            let mut next = prompt.clone();
            let mut step = || {
                let logits = engine.forward(&mut session, &next, next.len() - 1).unwrap();
                next = vec![argmax(logits.row(0)) as u32];
                next[0]
            };
            (0..theirs.len()).map(|_| step()).collect()
        });
        assert_eq!(ours, theirs, "{name}");
    }
}
