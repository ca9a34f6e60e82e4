//! What cannot be run, and what is said about it.

use std::fs;
use std::path::Path;

use aurora_quant::model::Op;
use aurora_quant::runtime::CacheType;

use crate::{EXACT, Golden, Opened, RuntimeOptions, fixture};

#[test]
fn contexts_are_bounded_by_the_model() {
    let opened = Opened::fixture("stories260k");
    let most = opened.model.hyper.context;
    for context in [0, most + 1] {
        let error = opened.try_run(RuntimeOptions { context, ..EXACT }, |_| ()).unwrap_err().explain();
        assert_eq!(error, format!("a context of {context} tokens; this model allows 1 to {most}"));
    }
    opened.run(RuntimeOptions { context: most, ..EXACT }, |_| ());
}

#[test]
fn tokens_must_fit() {
    Opened::fixture("stories260k").run(RuntimeOptions { context: 8, ..EXACT }, |engine| {
        let mut session = engine.session();
        let before = engine.forward(&mut session, &[1, 2, 3], 2).unwrap();
        let error = engine.forward(&mut session, &[1; 6], 0).unwrap_err().explain();
        assert_eq!(error, "6 tokens after 3 do not fit a context of 8");
        let error = engine.forward(&mut session, &[5, 512], 0).unwrap_err().explain();
        assert_eq!(error, "token 512 (number 1) is outside the vocabulary of 512");
        assert_eq!(session.used(), 3, "an error leaves the session as it was");
        session.truncate(2);
        assert_eq!(engine.forward(&mut session, &[3], 0).unwrap(), before);
        assert_eq!(engine.forward(&mut session, &[], 0).unwrap().dim(), (0, 512));
    });
}

#[test]
fn a_q8_0_cache_needs_heads_of_whole_blocks() {
    let mut opened = Opened::fixture("stories260k");
    for op in opened.model.graph.blocks.iter_mut().flatten() {
        if let Op::Attend { head_dim, .. } = op {
            assert!(!head_dim.is_multiple_of(32), "the fixture's heads are small");
        }
    }
    let options = RuntimeOptions { cache: CacheType::Q8_0, ..EXACT };
    let error = opened.try_run(options, |_| ()).unwrap_err().explain();
    assert_eq!(error, "a q8_0 cache needs heads of a multiple of 32 numbers, these have 8; use f16");
}

/// A copy of the fixture with one number of one tensor replaced.
fn poisoned(dir: &Path, tensor: &str, row: usize, value: f32) -> Opened {
    let from = fixture("tiny-llama3");
    for entry in fs::read_dir(&from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.join(path.file_name().unwrap())).unwrap();
    }
    let file = dir.join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let opened = Opened::new(&from);
    let info = opened.source.find(tensor).unwrap();
    let at = info.range.start + info.spec.bytes_for(row * info.shape.last().unwrap()).unwrap();
    match info.spec.name {
        "f32" => bytes[at..at + 4].copy_from_slice(&value.to_le_bytes()),
        "bf16" => bytes[at..at + 2].copy_from_slice(&half::bf16::from_f32(value).to_le_bytes()),
        other => panic!("the fixture is {other}"),
    }
    fs::write(&file, bytes).unwrap();
    Opened::new(dir)
}

#[test]
fn what_is_not_finite_is_traced_to_its_op() {
    let cases = [
        (
            "model.layers.0.mlp.down_proj.weight",
            3,
            f32::NAN,
            ["block 0: a linear gave NaN", "itself holds NaN in row 3"],
        ),
        ("model.layers.0.input_layernorm.weight", 0, f32::INFINITY, ["block 0: a norm gave", "itself holds inf"]),
        ("model.layers.0.self_attn.v_proj.weight", 1, 3e38, ["block 0: a linear gave", "its weights are finite"]),
        ("model.norm.weight", 0, f32::NAN, ["outside the blocks: a norm gave NaN", "itself holds NaN"]),
    ];
    let tokens = Golden::of("tiny-llama3").tokens;
    for (tensor, row, value, words) in cases {
        let dir = tempfile::tempdir().unwrap();
        poisoned(dir.path(), tensor, row, value).run(EXACT, |engine| {
            for from in [0, tokens.len() - 1, tokens.len()] {
                let mut session = engine.session();
                let result = engine.forward(&mut session, &tokens, from);
                if from == tokens.len() && tensor == "model.norm.weight" {
                    assert_eq!(result.unwrap().nrows(), 0, "the head is not run");
                    continue;
                }
                // Only the last block's keys and values are computed for positions whose logits nobody wants.
                let error = result.map(|_| ()).unwrap_err().explain();
                assert!(error.contains(tensor) && words.iter().all(|w| error.contains(w)), "{error}");
                assert_eq!(session.used(), 0);
            }
        });
    }
}
