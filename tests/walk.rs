//! The block loop: where samples are before every block, and a walk that goes on where another ended.

mod common;

use aurora_quant::Result;
use aurora_quant::model::Opened;
use aurora_quant::pipeline::walk::{Head, Samples, Stop, Visit, walk};
use aurora_quant::runtime::{BlockRunner, Overrides, RuntimeOptions};
use aurora_quant::weights::Weights;
use common::{canonical, fixtures};
use ndarray::Array2;

/// Looks on: where the samples are before every block, and at the end.
#[derive(Default)]
struct Idle(Vec<Vec<Array2<f32>>>);

impl Visit for Idle {
    fn block(&mut self, stop: &mut Stop<'_, '_>) -> Result<()> {
        self.0.push(stop.residuals().to_vec());
        Ok(())
    }

    fn head(&mut self, head: &Head<'_, '_>) -> Result<()> {
        self.0.push(head.residuals().to_vec());
        Ok(())
    }
}

#[test]
fn a_walk_takes_samples_on_by_itself_and_begins_where_another_ended() {
    let folder = fixtures().join("models/stories260k");
    let opened = Opened::open(&folder).unwrap();
    let weights = Weights::bind(&*opened.source, &opened.model.graph).unwrap();
    let runner = BlockRunner::new(&opened.model, &weights, RuntimeOptions::exact(48)).unwrap();
    let golden = canonical::load_file(&folder.join("golden.safetensors"));
    let tokens: Vec<u32> = golden["input_ids"].data.iter().map(|&t| t as u32).collect();
    let samples = [tokens[..20].to_vec(), tokens[20..].to_vec()];
    let blocks = opened.model.graph.blocks.len();
    let mut whole = Idle::default();
    walk(&runner, Samples::Tokens(&samples), 0..blocks, &mut whole).unwrap();
    assert_eq!(whole.0.len(), blocks + 1);
    let mut direct: Vec<Array2<f32>> = samples.iter().map(|tokens| runner.embed(tokens).unwrap()).collect();
    for (i, found) in whole.0.iter().enumerate() {
        assert!(direct == *found, "before block {i}");
        if i < blocks {
            runner.block(i, &Overrides::new()).run_all(&mut direct, None).unwrap();
        }
    }
    let (mut first, mut rest) = (Idle::default(), Idle::default());
    walk(&runner, Samples::Tokens(&samples), 0..2, &mut first).unwrap();
    assert_eq!(first.0.len(), 2, "the head is not reached");
    walk(&runner, Samples::Residuals(whole.0[2].clone()), 2..blocks, &mut rest).unwrap();
    first.0.extend(rest.0);
    assert!(first.0 == whole.0);
}
