//! Edits: whatever is done to a parameter, any range of its rows is what a slow twin makes of the whole matrix;
//! integers of a quantised checkpoint are carried over where places alone changed; what does not fit is refused by
//! name.

mod common;

use std::collections::BTreeMap;
use std::ops::Range;

use aurora_quant::checkpoint::{self, TensorSource};
use aurora_quant::export;
use aurora_quant::model::{self, Model, ParamId, Role};
use aurora_quant::pipeline::AfterBlocks;
use aurora_quant::pipeline::{self, Rounding};
use aurora_quant::plan::{FileType, Plan, Rules};
use aurora_quant::runtime::{Attention, BlockRunner, CacheType, Overrides, RuntimeOptions};
use aurora_quant::watch::Unwatched;
use aurora_quant::weights::{Edit, Edits, Gather, LowRankTerm, Scale, Side, Weights};
use aurora_quantizers::{BitMask, elements, formats};
use common::canonical::{canonical, load};
use common::checkpoint::Checkpoint;
use common::twin::{KINDS, Matrix, Random, Twin, apply, edit};
use ndarray::{Array2, array};
use tempfile::TempDir;

/// Biases and moved rows, a term on norms, fused matrices, transposed ones, experts in two forms.
const MODELS: [&str; 6] =
    ["tiny-llama-bias", "tiny-gemma2", "tiny-phi3", "tiny-gpt2", "tiny-mixtral", "tiny-qwen3-moe"];

fn describe(source: &dyn TensorSource) -> Model {
    model::describe(source.config(), &|name| source.find(name).is_some()).unwrap()
}

/// The parameters that are looked at: those of the first block, and those outside.
fn some(model: &Model) -> impl Iterator<Item = ParamId> + '_ {
    let params = model.graph.params.iter().enumerate();
    params.filter(|(_, p)| p.block.is_none_or(|block| block == 0)).map(|(i, _)| ParamId(i))
}

fn bits<'v>(values: impl IntoIterator<Item = &'v f32>) -> Vec<u32> {
    values.into_iter().map(|v| v.to_bits()).collect()
}

fn read(weights: &Weights, id: ParamId, rows: Range<usize>) -> Array2<f32> {
    let mut out = Array2::from_elem((rows.len(), weights.dim(id).1), f32::NAN);
    weights.rows(id, rows, out.view_mut());
    out
}

/// Whole, and in ranges that begin and end anywhere.
fn same(weights: &Weights, id: ParamId, twin: &Twin, random: &mut Random, what: &str) {
    let (shape, values) = (weights.shape(id), twin.values());
    let (rows, cols) = twin.shape(None);
    assert_eq!(shape[..shape.len() - 1].iter().product::<usize>(), rows, "{what}: {shape:?}");
    assert_eq!(shape[shape.len() - 1], cols, "{what}: {shape:?}");
    if shape.len() == 3 {
        assert_eq!(shape[0], twin.matrices.len(), "{what}: {shape:?}");
    }
    assert_eq!(weights.dim(id), (rows, cols), "{what}");
    assert!(bits(&weights.whole(id)) == bits(&values), "{what}");
    for _ in 0..4 {
        let from = random.below(rows);
        let some = from..from + 1 + random.below(rows - from);
        let expected = &values[some.start * cols..some.end * cols];
        assert!(bits(&read(weights, id, some.clone())) == bits(expected), "{what}, rows {some:?}");
    }
}

/// Calls `f` for parameters of all models, with their twins.
fn each(mut f: impl FnMut(&Weights, &Model, ParamId, &Twin, &mut Random)) {
    for name in MODELS {
        let folder = common::fixtures().join("models").join(name);
        let source = checkpoint::open(&folder).unwrap();
        let (model, tensors) = (describe(&*source), load(&folder));
        let weights = Weights::bind(&*source, &model.graph).unwrap();
        for id in some(&model) {
            let twin = Twin::new(&canonical(model.graph.param(id), &tensors), &model, id);
            f(&weights, &model, id, &twin, &mut Random(id.0 as u64));
        }
    }
}

#[test]
fn every_kind_of_edit_is_what_the_twin_makes_of_the_whole() {
    each(|weights, model, id, unedited, random| {
        let name = &model.graph.param(id).name;
        same(weights, id, unedited, random, name);
        for kind in KINDS {
            let count = unedited.matrices.len();
            // The rows of stacked matrices are moved within each.
            let all = count == 1 || !kind.ends_with("rows");
            let mut edits = Edits::new();
            let mut twin = unedited.clone();
            let (rows, cols) = twin.shape(Some(0));
            let one_shape = edit(kind, rows, cols, random);
            match all {
                true => {
                    let (rows, cols) = twin.shape(None);
                    let edit = edit(kind, rows, cols, random);
                    twin.apply(None, &edit);
                    edits.push(id, None, edit);
                }
                false => (0..count).for_each(|expert| {
                    twin.apply(Some(expert), &one_shape);
                    edits.push(id, Some(expert), one_shape.clone());
                }),
            }
            let edited = weights.edited(&edits).unwrap();
            same(&edited, id, &twin, random, &format!("{name}: {kind}"));
            assert!(edited.is_edited(id) && !weights.is_edited(id), "{name}: a view of its own");
            let words = edited.changes(id).is_some();
            assert_eq!(words, !kind.starts_with("permute"), "{name}: {:?}", edited.changes(id));
            if count > 1 && !kind.starts_with("remove") {
                // One expert's alone; the others stay as they are.
                let expert = random.below(count);
                let (mut edits, mut twin) = (Edits::new(), unedited.clone());
                let edit = edit(kind, rows, cols, random);
                twin.apply(Some(expert), &edit);
                edits.push(id, Some(expert), edit);
                same(&weights.edited(&edits).unwrap(), id, &twin, random, &format!("{name}: {kind} of {expert}"));
            }
        }
    });
}

/// Also that it makes no difference where a list of edits is cut into views.
#[test]
fn edits_are_done_in_their_order() {
    each(|weights, model, id, unedited, random| {
        let name = &model.graph.param(id).name;
        for trial in 0..6 {
            let mut twin = unedited.clone();
            let mut views = weights.clone();
            let mut all = Edits::new();
            let mut kinds = Vec::new();
            for _ in 0..2 + random.below(5) {
                let kind = KINDS[random.below(KINDS.len())];
                kinds.push(kind);
                let mut edits = Edits::new();
                let count = twin.matrices.len();
                if count > 1 && (kind.ends_with("rows") || random.below(2) == 0) {
                    let (rows, cols) = twin.shape(Some(0));
                    let one = edit(kind, rows, cols, random);
                    (0..count).for_each(|expert| edits.push(id, Some(expert), one.clone()));
                } else {
                    let (rows, cols) = twin.shape(None);
                    edits.push(id, None, edit(kind, rows, cols, random));
                }
                edits.of(id).for_each(|(expert, edit)| twin.apply(expert, edit));
                views = views.edited(&edits).unwrap();
                all.append(&edits);
            }
            let what = format!("{name}, trial {trial}: {}", kinds.join(", "));
            same(&views, id, &twin, random, &what);
            same(&weights.edited(&all).unwrap(), id, &twin, random, &what);
            assert_eq!(views.edits(), &all, "{what}");
        }
    });
}

#[test]
fn factors_and_permutations_that_follow_each_other_are_one_edit() {
    let random = &mut Random(5);
    let (id, (first, second)) = (ParamId(0), (random.floats(7), random.floats(7)));
    let mut edits = Edits::new();
    edits.push(id, Some(1), Edit::Scale(Scale::of_cols(first.clone())));
    edits.push(id, Some(2), Edit::Scale(Scale::of_cols(first.clone())));
    edits.push(id, Some(1), Edit::Scale(Scale::of_rows(second.clone())));
    edits.push(id, Some(1), Edit::Scale(Scale::of_cols(second.clone())));
    let products = first.iter().zip(&second).map(|(a, b)| a * b).collect();
    let both = Edit::Scale(Scale { cols: Some(products), rows: Some(second) });
    let of_second = Edit::Scale(Scale::of_cols(first));
    let found: Vec<_> = edits.of(id).map(|(expert, edit)| (expert, (**edit).clone())).collect();
    assert_eq!(found, [(Some(1), both), (Some(2), of_second)]);

    let [p, q] = [random.permutation(9), random.permutation(9)];
    let mut edits = Edits::new();
    for from in [&p, &q] {
        edits.push(id, None, Edit::Permute(Gather { side: Side::Rows, from: from.clone() }));
    }
    let mut rows: Matrix = (0..9).map(|i| vec![i as f32]).collect();
    let mut twin = rows.clone();
    edits.of(id).for_each(|(_, edit)| apply(&mut rows, edit));
    [p, q].into_iter().for_each(|from| apply(&mut twin, &Edit::Permute(Gather { side: Side::Rows, from })));
    assert_eq!((rows, edits.of(id).count()), (twin, 1));
}

/// Experts can go, and change places, as whole matrices.
#[test]
fn experts_are_removed_with_all_their_rows() {
    each(|weights, model, id, unedited, random| {
        let (name, count) = (&model.graph.param(id).name, unedited.matrices.len());
        if count == 1 {
            return;
        }
        let height = unedited.matrices[0].len();
        let rows = |experts: &[usize]| -> Vec<u32> {
            experts.iter().flat_map(|e| (e * height) as u32..((e + 1) * height) as u32).collect()
        };
        let stay: Vec<usize> = (0..count).filter(|e| e % 2 == 1).collect();
        let (mut edits, mut twin) = (Edits::new(), unedited.clone());
        let (_, cols) = twin.shape(None);
        let list = [
            (Some(1), Edit::Scale(Scale::of_cols(random.floats(cols)))),
            (None, Edit::Remove(Gather { side: Side::Rows, from: rows(&stay) })),
            (None, Edit::Permute(Gather { side: Side::Rows, from: rows(&(0..stay.len()).rev().collect::<Vec<_>>()) })),
            (Some(0), edit("add", height, cols, random)),
        ];
        for (expert, edit) in list {
            twin.apply(expert, &edit);
            edits.push(id, expert, edit);
        }
        let edited = weights.edited(&edits).unwrap();
        same(&edited, id, &twin, random, name);
        assert!(!edited.in_order(id), "{name}");
    });
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let source = checkpoint::open(&common::fixtures().join("models/tiny-mixtral")).unwrap();
    let model = describe(&*source);
    let weights = Weights::bind(&*source, &model.graph).unwrap();
    let find = |name: &str| ParamId(model.graph.params.iter().position(|p| p.name == name).unwrap());
    let [norm, experts] = ["blk.0.attn_norm.weight", "blk.0.ffn_up_exps.weight"].map(find);
    let width = model.graph.param(norm).len();
    let [count, height, cols] = model.graph.param(experts).shape[..] else { panic!("experts") };
    let gather = |side, from: Vec<u32>| Gather { side, from };
    let term = |b, a| Edit::Add(LowRankTerm { scale: 1.0, b: Array2::zeros(b), a: Array2::zeros(a) });
    let cases = [
        (norm, None, Edit::Scale(Scale::of_cols(vec![1.0; width + 1])), "factors of columns"),
        (norm, None, Edit::Scale(Scale::of_rows(vec![1.0; 2])), "factors of rows"),
        (norm, None, Edit::Permute(gather(Side::Cols, vec![0; width])), "stands twice"),
        (norm, None, Edit::Permute(gather(Side::Cols, (1..=width as u32).collect())), "none of"),
        (norm, None, Edit::Remove(gather(Side::Cols, vec![])), "would be removed"),
        (norm, None, Edit::Remove(gather(Side::Cols, vec![2, 1])), "rising"),
        (norm, None, Edit::Remove(gather(Side::Cols, vec![width as u32])), "rising"),
        (norm, None, Edit::Mask(BitMask::none(2, width)), "a mask of [2,"),
        (norm, None, Edit::Values(Array2::zeros((1, width - 1))), "new values"),
        (norm, None, term((1, 2), (1, width)), "a product of [1, 2] and [1,"),
        // As many numbers, in rows of another length.
        (experts, Some(0), Edit::Values(Array2::zeros((2 * height, cols / 2))), "new values"),
        (experts, Some(0), term((2 * height, 2), (2, cols / 2)), "a product of"),
        (experts, Some(0), term((height, 2), (4, cols / 2)), "a product of"),
        (norm, Some(1), Edit::Scale(Scale::default()), "expert 1, of 1"),
        (experts, Some(count), Edit::Scale(Scale::default()), "of"),
        (experts, None, Edit::Remove(gather(Side::Rows, (1..=height as u32).collect())), "whole matrix"),
        (experts, Some(0), Edit::Remove(gather(Side::Rows, vec![0])), "one shape"),
    ];
    for (id, expert, edit, what) in cases {
        let mut edits = Edits::new();
        edits.push(id, expert, edit);
        let error = weights.edited(&edits).err().expect(what).explain();
        assert!(error.contains(what) && error.contains(&model.graph.param(id).name), "{what}: {error}");
    }
    let mut edits = Edits::new();
    edits.push(ParamId(model.graph.params.len()), None, Edit::Scale(Scale::default()));
    assert!(weights.edited(&edits).err().unwrap().explain().contains("parameter"));
}

/// As many numbers as are wanted, but not in rows of the parameter's.
#[test]
#[should_panic(expected = "blk.0.attn_k.weight: shape of the output")]
fn rows_are_not_read_into_another_shape() {
    let source = checkpoint::open(&common::fixtures().join("models/tiny-mixtral")).unwrap();
    let model = describe(&*source);
    let weights = Weights::bind(&*source, &model.graph).unwrap();
    let id = ParamId(model.graph.params.iter().position(|p| p.name == "blk.0.attn_k.weight").unwrap());
    let (rows, cols) = weights.dim(id);
    assert_ne!(rows, cols, "a shape that tells them apart");
    weights.rows(id, 0..rows, Array2::zeros((cols, rows)).view_mut());
}

/// The executor over an edited view computes what it computes over the same numbers given to it.
#[test]
fn edited_weights_run_like_any_others() {
    for name in MODELS {
        let source = checkpoint::open(&common::fixtures().join("models").join(name)).unwrap();
        let model = describe(&*source);
        let weights = Weights::bind(&*source, &model.graph).unwrap();
        let (mut edits, mut random) = (Edits::new(), Random(3));
        for id in some(&model) {
            let (param, twin) = (model.graph.param(id), ["scale", "mask", "add"]);
            let (rows, cols) = (param.rows(), param.cols());
            if param.block == Some(0) && param.role != Role::RopeFactors {
                edits.push(id, None, edit(twin[random.below(3)], rows, cols, &mut random));
            }
        }
        let edited = weights.edited(&edits).unwrap();
        let mut overrides = Overrides::new();
        for id in edits.params() {
            overrides.floats(id, edited.whole(id).view());
        }
        let options = RuntimeOptions { context: 16, exact: true, cache: CacheType::F32, attention: Attention::Naive };
        let run = |weights: &Weights, overrides: &Overrides| {
            let runner = BlockRunner::new(&model, weights, options).unwrap();
            let mut residual = runner.embed(&[3, 1, 4, 1, 5, 9, 2, 6]).unwrap();
            runner.block(0, overrides).run(residual.view_mut(), None).unwrap();
            residual
        };
        let ours = run(&edited, &Overrides::new());
        assert!(bits(&ours) == bits(&run(&weights, &overrides)), "{name}");
        assert!(bits(&ours) != bits(&run(&weights, &Overrides::new())), "{name}: nothing changed");
    }
}

/// A checkpoint of GPTQ's integers.
fn quantized(dir: &TempDir) -> (Box<dyn TensorSource>, Model) {
    let folder = dir.path().join("model");
    Checkpoint::quantized("gptq-sym-g32").write(&folder);
    let source = checkpoint::open(&folder).unwrap();
    let model = describe(&*source);
    (source, model)
}

/// Integers go where their rows and columns go, as long as every block's are of one group; no other edit leaves them
/// what they were.
#[test]
fn integers_are_carried_over_where_places_alone_changed() {
    let dir = TempDir::new().unwrap();
    let (source, model) = quantized(&dir);
    let weights = Weights::bind(&*source, &model.graph).unwrap();
    let mut random = Random(1);
    for name in ["blk.0.attn_q.weight", "blk.1.ffn_down.weight"] {
        let id = ParamId(model.graph.params.iter().position(|p| p.name == name).unwrap());
        let (rows, cols) = (model.graph.param(id).rows(), model.graph.param(id).cols());
        let before = Twin::new(elements(weights.whole(id).view()), &model, id);
        // Groups change places, and columns within each.
        let groups = random.permutation(cols / 32);
        let within: Vec<Vec<u32>> = (0..cols / 32).map(|_| random.permutation(32)).collect();
        let from = groups.iter().zip(within).flat_map(|(g, order)| order.into_iter().map(move |c| g * 32 + c));
        let gathers = [
            Gather { side: Side::Rows, from: random.permutation(rows) },
            Gather { side: Side::Cols, from: from.collect() },
            Gather { side: Side::Rows, from: random.permutation(rows) },
        ];
        let (mut edits, mut twin) = (Edits::new(), before.clone());
        for gather in gathers {
            twin.apply(None, &Edit::Permute(gather.clone()));
            edits.push(id, None, Edit::Permute(gather));
        }
        let moved = weights.edited(&edits).unwrap();
        same(&moved, id, &twin, &mut random, name);
        let kept = moved.kept(id);
        assert_eq!((kept.store.spec().name, kept.integers, &kept.reason), ("q4_0", true, &None), "{name}");
        let format = formats::by_name("q4_0").unwrap();
        for some in [0..rows, 3..rows / 2 + 1] {
            let mut bytes = vec![0; some.len() * format.spec().bytes_for(cols).unwrap()];
            let (mut values, mut back) = (Array2::zeros((some.len(), cols)), vec![0.0; some.len() * cols]);
            moved.carry(id, some.clone(), format, values.view_mut(), &mut bytes);
            format.decode(&bytes, &mut back);
            let expected = &twin.values()[some.start * cols..some.end * cols];
            assert!(bits(&values) == bits(expected) && bits(&back) == bits(expected), "{name}: {some:?}");
        }
        let others = [
            (edit("scale", rows, cols, &mut random), "its weights are scaled"),
            (edit("mask", rows, cols, &mut random), "its weights are masked"),
            (Edit::Permute(Gather { side: Side::Cols, from: random.permutation(cols) }), "columns permuted"),
        ];
        for (edit, why) in others {
            let mut edits = edits.clone();
            edits.push(id, None, edit);
            let kept = weights.edited(&edits).unwrap().kept(id);
            let names = [kept.wanted, kept.store].map(|store| store.spec().name);
            assert_eq!((names, kept.integers), (["q4_0", "f16"], false), "{name}");
            assert!(kept.reason.as_deref().unwrap().starts_with(why), "{name}: {:?}", kept.reason);
        }
    }
}

/// What a plan carries over must still be there when it is carried out.
#[test]
fn a_plan_that_carries_integers_over_refuses_edits_of_them() {
    let dir = TempDir::new().unwrap();
    let (source, model) = quantized(&dir);
    let weights = Weights::bind(&*source, &model.graph).unwrap();
    let id = ParamId(model.graph.params.iter().position(|p| p.name == "blk.0.ffn_up.weight").unwrap());
    let rules = Rules {
        file_type: FileType::by_name("f16").unwrap(),
        pure: false,
        calibrated: false,
        output: None,
        embedding: None,
        overrides: Vec::new(),
    };
    let plan = Plan::keeping(&model, &rules, &BTreeMap::from([(id, weights.kept(id))])).unwrap();
    assert!(plan.tensors[id.0].carried);
    let mut edits = Edits::new();
    edits.push(id, None, Edit::Scale(Scale::of_cols(vec![2.0; model.graph.param(id).cols()])));
    let solved = AfterBlocks { written: vec![false; plan.tensors.len()], edits, ..AfterBlocks::default() };
    let (metadata, _) = export::metadata::metadata(&*source, &model, &plan, None).unwrap();
    let layout = export::gguf::layout(&plan, &metadata).unwrap();
    let output = export::Output::begin(&dir.path().join("out.gguf"), layout, true).unwrap();
    let run = |solved| {
        let rounding = Rounding { solved, ..Rounding::default() };
        pipeline::run(&weights, &plan, rounding, &output, &Unwatched)
    };
    run(None).unwrap();
    let error = run(Some(&solved)).unwrap_err().explain();
    assert!(error.contains("blk.0.ffn_up.weight") && error.contains("was scaled after"), "{error}");
}

#[test]
fn remarks_go_along_and_other_parameters_can_be_left_out() {
    let mut edits = Edits::new();
    edits.push(ParamId(1), None, Edit::Scale(Scale::of_cols(vec![2.0])));
    edits.push(ParamId(2), None, Edit::Scale(Scale::of_cols(vec![3.0])));
    edits.explain(ParamId(1), "doubled");
    edits.leave(ParamId(3), "it is odd");
    let mut later = Edits::new();
    later.append(&edits);
    later.explain(ParamId(2), "tripled");
    let said = [1, 2, 3].map(|id| (later.about(ParamId(id)), later.left(ParamId(id))));
    assert_eq!(said, [(Some("doubled"), None), (Some("tripled"), None), (None, Some("it is odd"))]);
    later.retain(|id| id == ParamId(2));
    assert_eq!(later.params().collect::<Vec<_>>(), [ParamId(2)]);
    assert!(later.about(ParamId(1)).is_none() && later.left(ParamId(3)).is_none() && !later.is_empty());
    assert!(Edits::new().is_empty());
}

/// Bit by bit, whatever the numbers are.
#[test]
fn edits_come_back_from_a_file_as_they_were() {
    let (mut edits, mut random) = (Edits::new(), Random(9));
    for (i, kind) in KINDS.iter().enumerate() {
        edits.push(ParamId(i / 3), (i % 2 == 0).then_some(i), edit(kind, 5, 67, &mut random));
    }
    edits.push(ParamId(9), None, Edit::Values(array![[f32::INFINITY, -0.0], [1e-40, 0.1]]));
    edits.explain(ParamId(9), "odd numbers");
    edits.leave(ParamId(8), "no reason");
    let text = serde_json::to_string(&edits).unwrap();
    let back: Edits = serde_json::from_str(&text).unwrap();
    assert_eq!(back, edits);
    let zero = |edits: &Edits| match &**edits.of(ParamId(9)).next().unwrap().1 {
        Edit::Values(values) => bits(values),
        other => panic!("{other:?}"),
    };
    assert_eq!(zero(&back), zero(&edits));
    let broken: BTreeMap<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    let mut broken = serde_json::to_value(broken).unwrap();
    broken["edits"] = serde_json::json!([[0, null, {"Mask": [2, 65, [1]]}]]);
    assert!(serde_json::from_value::<Edits>(broken.clone()).unwrap_err().to_string().contains("[2, 65]"));
    broken["edits"] = serde_json::json!([[0, null, {"Values": [2, 3, [0, 0, 0, 0, 0]]}]]);
    let error = serde_json::from_value::<Edits>(broken).unwrap_err().to_string();
    assert!(error.contains("5 numbers are no matrix of [2, 3]"), "{error}");
}
