//! Values in the place of a checkpoint's, and what is added to them.

use aurora_quant::model::ParamId;
use aurora_quant::runtime::{BlockRunner, LowRank, Overrides};
use aurora_quant::weights::Weights;
use aurora_quantizers::matrix;

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
        runner.block(0, overrides).run(&mut residual, None).unwrap();
        residual
    };
    let plain = run(&Overrides::new());
    for (name, expert) in [("blk.0.attn_v.weight", None), ("blk.0.ffn_down_exps.weight", Some(1))] {
        let id = ParamId(graph.params.iter().position(|p| p.name == name).unwrap());
        let param = graph.param(id);
        let (rows, cols) = (param.shape[param.shape.len() - 2], param.cols());
        let first = expert.unwrap_or(0) * rows;
        let mut values = vec![0.0; rows * cols];
        weights.rows(id, first..first + rows, &mut values);
        // Rank 2, added twice: scale * B A of the numbers below, in two halves.
        let a: Vec<f32> = (0..2 * cols).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
        let b: Vec<f32> = (0..rows * 2).map(|i| ((i * 53 % 97) as f32 - 48.0) / 48.0).collect();
        let (mut added, mut whole) = (Overrides::new(), Overrides::new());
        for _ in 0..2 {
            added.add(id, expert, LowRank::new(matrix(&a, cols), matrix(&b, 2), 0.25));
        }
        for (row, b) in values.chunks_exact_mut(cols).zip(b.chunks_exact(2)) {
            row.iter_mut().enumerate().for_each(|(c, w)| *w += 0.5 * (b[0] * a[c] + b[1] * a[cols + c]));
        }
        whole.expert(id, expert.unwrap_or(0), &values);
        let (added, whole) = (run(&added), run(&whole));
        let size = whole.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
        assert!(apart(&added, &whole) < 1e-4 * size, "{name}: {} apart", apart(&added, &whole));
        assert!(apart(&added, &plain) > 1e-2 * size, "{name}: nothing is added");
    }
}
