//! The observer of linears.

use std::collections::BTreeMap;

use aurora_quant::model::{Op, Role};
use aurora_quant::runtime::{LinearInput, Tap};

use crate::common::MODELS;
use crate::{EXACT, Golden, Opened, apart};

/// Rows seen and their sum, by matrix and expert.
#[derive(Default)]
struct Seen(BTreeMap<(usize, Option<usize>), (usize, f64)>);

impl Tap for Seen {
    fn linear_input(&mut self, input: &LinearInput<'_>) {
        let (rows, sum) = self.0.entry((input.weight.0, input.expert)).or_default();
        *rows += input.x.nrows();
        *sum += input.x.iter().map(|x| f64::from(*x)).sum::<f64>();
    }
}

#[test]
fn every_linear_is_seen_with_every_token() {
    for name in MODELS.iter() {
        let opened = Opened::fixture(name);
        let graph = &opened.model.graph;
        let tokens = Golden::of(name).tokens;
        opened.run(EXACT, |engine| {
            let mut seen = Seen::default();
            let tapped = engine.forward_tapped(&mut engine.session(), &tokens, 40, &mut seen).unwrap();
            let plain = engine.forward(&mut engine.session(), &tokens, 40).unwrap();
            assert!(apart(&tapped, &plain) <= 1e-4, "{name}: looking on changes nothing");
            for op in graph.blocks.iter().flatten().chain(&graph.head) {
                let Op::Linear { weight, experts, .. } = op else { continue };
                let of_it = seen.0.iter().filter(|((w, _), _)| *w == weight.0);
                let rows: usize = of_it.clone().map(|(_, (rows, _))| rows).sum();
                let param = graph.param(*weight);
                let wanted = match (experts, param.block) {
                    (Some(route), _) => tokens.len() * graph.slots[route.0],
                    (None, Some(_)) => tokens.len(),
                    (None, None) => tokens.len() - 40,
                };
                assert_eq!(rows, wanted, "{name}: {}", param.name);
                assert!(of_it.clone().all(|((_, expert), _)| expert.is_some() == experts.is_some()));
            }
        });
    }
}

/// Query, key and value read one slot, so they must be shown the same numbers.
#[test]
fn linears_that_share_an_input_are_shown_the_same() {
    let opened = Opened::fixture("tiny-mixtral");
    let tokens = Golden::of("tiny-mixtral").tokens;
    opened.run(EXACT, |engine| {
        let mut seen = Seen::default();
        engine.forward_tapped(&mut engine.session(), &tokens, 0, &mut seen).unwrap();
        let graph = &opened.model.graph;
        let of = |role: Role, expert: Option<usize>| {
            let id = graph.params.iter().position(|p| p.role == role && p.block == Some(1)).unwrap();
            seen.0.get(&(id, expert))
        };
        assert_eq!(of(Role::AttnQ, None), of(Role::AttnK, None));
        assert_eq!(of(Role::AttnQ, None), of(Role::AttnV, None));
        for expert in 0..4 {
            assert_eq!(of(Role::FfnGate, Some(expert)), of(Role::FfnUp, Some(expert)));
        }
    });
}
