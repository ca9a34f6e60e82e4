//! The same question asked in other ways: batches, cached or not, naive or in tiles, any cache type, any threads.

use aurora_quant::model::Op;
use aurora_quant::runtime::{Attention, CacheType, Engine, Session};
use ndarray::{Array2, ArrayView2, Axis, s};

use crate::common::MODELS;
use crate::{EXACT, Golden, Opened, RuntimeOptions, apart, convert, fixture};

/// What another order of the same f32 sums may move a logit by.
const SPLIT: f32 = 1e-4;

fn steps(engine: &Engine<'_>, session: &mut Session, tokens: &[u32], sizes: &[usize]) -> Array2<f32> {
    let mut rest = tokens;
    let mut sizes = sizes.iter().cycle();
    let mut all = Array2::zeros((0, engine.model().hyper.vocab));
    while !rest.is_empty() {
        let (now, later) = rest.split_at(*sizes.next().unwrap().min(&rest.len()));
        all.append(Axis(0), engine.forward(session, now, 0).unwrap().view()).unwrap();
        rest = later;
    }
    all
}

#[test]
fn any_split_into_calls_gives_the_same() {
    for name in MODELS.iter() {
        let tokens = Golden::of(name).tokens;
        Opened::fixture(name).run(EXACT, |engine| {
            let whole = engine.forward(&mut engine.session(), &tokens, 0).unwrap();
            for sizes in [&[1][..], &[7, 1, 13]] {
                let split = steps(engine, &mut engine.session(), &tokens, sizes);
                let worst = apart(&whole, &split);
                assert!(worst <= SPLIT, "{name}, calls of {sizes:?}: {worst:e}");
            }
        });
    }
}

/// Longer than a tile of the cache and than an internal batch; the window makes early tiles invisible.
#[test]
fn long_texts_are_the_same_in_any_split() {
    for name in ["stories260k", "tiny-mistral", "tiny-gemma3"] {
        let opened = Opened::fixture(name);
        let (context, vocab) = (opened.model.hyper.context.min(700), opened.model.hyper.vocab as u32);
        let tokens: Vec<u32> = (0..context as u32).map(|i| (i * i * 7 + i * 3 + 1) % vocab).collect();
        opened.run(RuntimeOptions { context, ..EXACT }, |engine| {
            let whole = engine.forward(&mut engine.session(), &tokens, 0).unwrap();
            let split = steps(engine, &mut engine.session(), &tokens, &[97, 64, 1, 130]);
            let worst = apart(&whole, &split);
            assert!(worst <= SPLIT, "{name}, {context} tokens: {worst:e}");
        });
    }
}

#[test]
fn logits_of_the_end_are_those_of_the_whole() {
    for name in MODELS.iter() {
        let tokens = Golden::of(name).tokens;
        Opened::fixture(name).run(EXACT, |engine| {
            let whole = engine.forward(&mut engine.session(), &tokens, 0).unwrap();
            for from in [1, 30, tokens.len() - 1, tokens.len()] {
                let mut session = engine.session();
                let end = engine.forward(&mut session, &tokens, from).unwrap();
                assert!(apart(&end, &whole.slice(s![from.., ..]).to_owned()) <= SPLIT, "{name} from {from}");
                assert_eq!(session.used(), tokens.len());
            }
        });
    }
}

/// Without a cache, every position is computed from scratch.
#[test]
fn the_cache_changes_nothing() {
    for name in MODELS.iter() {
        let tokens = &Golden::of(name).tokens[..24];
        Opened::fixture(name).run(EXACT, |engine| {
            let cached = steps(engine, &mut engine.session(), tokens, &[1]);
            for (i, cached) in cached.axis_chunks_iter(Axis(0), 1).enumerate() {
                let fresh = engine.forward(&mut engine.session(), &tokens[..=i], i).unwrap();
                let worst = apart(&cached.to_owned(), &fresh);
                assert!(worst <= SPLIT, "{name}, position {i}: {worst:e}");
            }
        });
    }
}

#[test]
fn truncated_sessions_go_on_as_if_nothing_had_followed() {
    for name in ["tiny-mistral", "tiny-gemma3"] {
        let tokens = Golden::of(name).tokens;
        Opened::fixture(name).run(EXACT, |engine| {
            let mut session = engine.session();
            session.reserve(64);
            let bytes = session.bytes();
            let first = engine.forward(&mut session, &tokens, 20).unwrap();
            session.truncate(20);
            assert_eq!(session.used(), 20);
            let again = engine.forward(&mut session, &tokens[20..], 0).unwrap();
            assert!(apart(&again, &first) <= SPLIT, "{name}");
            session.reset();
            let again = engine.forward(&mut session, &tokens, 20).unwrap();
            assert!(again == first, "{name}: the same call gives the same bits");
            assert_eq!(session.bytes(), bytes, "room had been made");
        });
    }
}

/// The naive twin sums in f64, so this is what tiles, the online softmax and its exponential lose: each score and
/// weight is within a few 1e-7 of itself, and the model passes that on times a hundred at most (its logits reach 30).
#[test]
fn attention_in_tiles_is_the_naive_one() {
    for name in MODELS.iter() {
        let opened = Opened::fixture(name);
        let tokens = Golden::of(name).tokens;
        let flash = opened.logits(EXACT, &tokens);
        let naive = opened.logits(RuntimeOptions { attention: Attention::Naive, ..EXACT }, &tokens);
        let worst = apart(&flash, &naive);
        println!("{name}: {worst:.1e}");
        assert!(worst <= 5e-5, "{name}: {worst:e}");
    }
}

/// Keys and values off by a relative 2^-11 (F16) move scores and outputs by about as much, those off by half a step of
/// 1/127 of a block's largest (Q8_0) by sixteen times as much. The logits' own spread is the unit.
#[test]
fn smaller_caches_are_close() {
    for name in MODELS.iter() {
        let opened = Opened::fixture(name);
        let golden = Golden::of(name);
        let spread = spread(&golden.logits);
        let exact = opened.logits(EXACT, &golden.tokens);
        let head_dim = opened.model.hyper.head_dim;
        for (cache, bound) in [(CacheType::F16, 1.0 / 256.0), (CacheType::Q8_0, 1.0 / 16.0)] {
            if cache == CacheType::Q8_0 && !head_dim.is_multiple_of(32) {
                continue;
            }
            for attention in [Attention::Flash, Attention::Naive] {
                let ours = opened.logits(RuntimeOptions { cache, attention, ..EXACT }, &golden.tokens);
                let error = root_mean_square(&ours, &exact) / spread;
                println!("{name}, {cache:?}: {error:.1e} of the spread");
                assert!(error > 0.0 && error <= bound, "{name}, {cache:?}, {attention:?}: {error:e}");
            }
        }
    }
}

fn spread(x: &Array2<f32>) -> f32 {
    let mean = x.iter().sum::<f32>() / x.len() as f32;
    (x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / x.len() as f32).sqrt()
}

fn root_mean_square(a: &Array2<f32>, b: &Array2<f32>) -> f32 {
    (a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>() / a.len() as f32).sqrt()
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["stories260k", "tiny-mixtral", "tiny-gemma3", "tiny-gpt2"] {
        let file = dir.path().join(format!("{name}.gguf"));
        convert(&fixture(name), "q8_0", &file);
        for (path, exact) in [(fixture(name), true), (file.clone(), true), (file, false)] {
            let opened = Opened::new(&path);
            let tokens: Vec<u32> = Golden::of(name).tokens.into_iter().cycle().take(250).collect();
            let context = opened.model.hyper.context.min(250);
            let run = |threads: usize| -> Array2<u32> {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let options = RuntimeOptions { context, exact, ..EXACT };
                pool.install(|| opened.logits(options, &tokens[..context])).mapv(f32::to_bits)
            };
            let one = run(1);
            for threads in [2, 7] {
                assert!(run(threads) == one, "{}: {threads} threads give other bits", path.display());
            }
        }
    }
}

/// Rounding activations to 8 bits, as llama.cpp does, stays close to not rounding them.
#[test]
fn rounded_activations_are_close() {
    let dir = tempfile::tempdir().unwrap();
    for name in MODELS.iter() {
        for file_type in ["q8_0", "q4_0"] {
            let file = dir.path().join(format!("{name}-{file_type}.gguf"));
            convert(&fixture(name), file_type, &file);
            let opened = Opened::new(&file);
            let tokens = Golden::of(name).tokens;
            let exact = opened.logits(EXACT, &tokens);
            let rounded = opened.logits(RuntimeOptions { exact: false, ..EXACT }, &tokens);
            let error = root_mean_square(&exact, &rounded) / spread(&exact);
            println!("{name}, {file_type}: {error:.1e} of the spread");
            assert!(error <= 0.1, "{name}, {file_type}: {error:e}");
        }
    }
}

#[test]
fn logits_arrive_in_order_and_whole() {
    let tokens: Vec<u32> = Golden::of("stories260k").tokens.into_iter().cycle().take(200).collect();
    Opened::fixture("stories260k").run(RuntimeOptions { context: 200, ..EXACT }, |engine| {
        let whole = engine.forward(&mut engine.session(), &tokens, 5).unwrap();
        let mut parts = Array2::zeros((0, whole.ncols()));
        let mut each = |first: usize, rows: ArrayView2<'_, f32>| {
            assert_eq!(first, 5 + parts.nrows(), "the next rows");
            parts.append(Axis(0), rows).unwrap();
        };
        engine.forward_each(&mut engine.session(), &tokens, 5, &mut each).unwrap();
        assert!(parts == whole, "the same bits");
    });
}

#[test]
fn bytes_per_token_are_those_of_the_matrices_and_the_cache() {
    let opened = Opened::fixture("tiny-mixtral");
    opened.run(EXACT, |engine| {
        let h = &opened.model.hyper;
        let experts = h.experts.as_ref().unwrap();
        let (q, kv) = (h.heads * h.head_dim, h.kv_heads * h.head_dim);
        let attention = h.width * (2 * q + 2 * kv);
        let experts = h.width * (experts.count + experts.used * 3 * h.ffn);
        let weights = h.blocks * (attention + experts) + h.width * h.vocab;
        let spec = opened.source.tensors()[0].spec;
        assert_eq!(engine.bytes_per_token(0), spec.bytes_for(weights).unwrap() as u64);
        let cache = engine.bytes_per_token(10) - engine.bytes_per_token(0);
        assert_eq!(cache, (h.blocks * 10 * 2 * kv * 4) as u64);
        let ops = opened.model.graph.blocks.iter().flatten();
        assert!(ops.clone().any(|op| matches!(op, Op::Route { .. })), "it has experts");
    });
}
