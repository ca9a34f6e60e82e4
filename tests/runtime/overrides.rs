//! Values in the place of a checkpoint's, and what is added to them.

use aurora_quant::model::ParamId;
use aurora_quant::runtime::{BlockRunner, LowRank, Overrides};
use aurora_quant::weights::Weights;
use aurora_quantizers::matrix;
use ndarray::Array2;

use crate::{EXACT, Golden, Opened, apart};

#[test]
fn what_is_added_to_a_matrix_is_as_if_it_were_part_of_it() {
    let opened = Opened::fixture("tiny-mixtral");
    let graph = &opened.model.graph;
    let weights = Weights::bind(&*opened.source, graph).unwrap();
    let runner = BlockRunner::new(&opened.model, &weights, EXACT).unwrap();
    let start = runner.embed(&Golden::of("tiny-mixtral").tokens).unwrap();
    let run = |overrides: &Overrides<'_>| {
        let mut residual = start.clone();
        runner.block(0, overrides).run(residual.view_mut(), None).unwrap();
        residual
    };
    let plain = run(&Overrides::new());
    for (name, expert) in [("blk.0.attn_v.weight", None), ("blk.0.ffn_down_exps.weight", Some(1))] {
        let id = ParamId(graph.params.iter().position(|p| p.name == name).unwrap());
        let param = graph.param(id);
        let (rows, cols) = (param.shape[param.shape.len() - 2], param.cols());
        let first = expert.unwrap_or(0) * rows;
        let mut values = Array2::zeros((rows, cols));
        weights.rows(id, first..first + rows, values.view_mut());
        // Rank 2, added twice: scale * B A of the numbers below, in two halves.
        let a: Vec<f32> = (0..2 * cols).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
        let b: Vec<f32> = (0..rows * 2).map(|i| ((i * 53 % 97) as f32 - 48.0) / 48.0).collect();
        let (mut added, mut whole) = (Overrides::new(), Overrides::new());
        for _ in 0..2 {
            added.add(id, expert, LowRank::new(matrix(&a, cols), matrix(&b, 2), 0.25));
        }
        for (mut row, b) in values.rows_mut().into_iter().zip(b.chunks_exact(2)) {
            row.iter_mut().enumerate().for_each(|(c, w)| *w += 0.5 * (b[0] * a[c] + b[1] * a[cols + c]));
        }
        whole.expert(id, expert.unwrap_or(0), values.view());
        let (added, whole) = (run(&added), run(&whole));
        let size = whole.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
        assert!(apart(&added, &whole) < 1e-4 * size, "{name}: {} apart", apart(&added, &whole));
        assert!(apart(&added, &plain) > 1e-2 * size, "{name}: nothing is added");
    }
}

/// As many numbers as the parameter has, but in rows of another length.
#[test]
fn values_of_another_shape_are_refused() {
    let opened = Opened::fixture("tiny-mixtral");
    let graph = &opened.model.graph;
    let weights = Weights::bind(&*opened.source, graph).unwrap();
    let runner = BlockRunner::new(&opened.model, &weights, EXACT).unwrap();
    let find = |name: &str| ParamId(graph.params.iter().position(|p| p.name == name).unwrap());
    let (matrix, norm, experts) =
        (find("blk.0.attn_k.weight"), find("blk.0.attn_norm.weight"), find("blk.0.ffn_up_exps.weight"));
    let halved = |(rows, cols): (usize, usize)| Array2::zeros((2 * rows, cols / 2));
    let expert = graph.param(experts).shape[1..].to_vec();
    let refused = |overrides: Overrides<'_>| {
        let tried = std::panic::AssertUnwindSafe(|| drop(runner.block(0, &overrides)));
        let message = std::panic::catch_unwind(tried).expect_err("refused");
        let message = message.downcast_ref::<String>().expect("words");
        assert!(message.contains("shape of the value in its place"), "{message}");
    };
    for id in [matrix, norm, experts] {
        let mut overrides = Overrides::new();
        overrides.floats(id, halved(weights.dim(id)).view());
        refused(overrides);
    }
    let mut overrides = Overrides::new();
    overrides.expert(experts, 1, halved((expert[0], expert[1])).view());
    refused(overrides);
}
