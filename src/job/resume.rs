//! What the bytes of a run depend on, as text: only the same run can continue one that was stopped.

use flate2::Crc;

use crate::checkpoint::{TensorSource, fingerprint};
use crate::plan::Plan;
use crate::recipe::Recipe;

/// Everything that decides the bytes, one item per line: the recipe, and checksums of what it names.
pub(super) fn identity(recipe: &Recipe, plan: &Plan, source: &dyn TensorSource, samples: &[Vec<u32>]) -> String {
    let mut text = Crc::new();
    samples.iter().flatten().for_each(|token| text.update(&token.to_le_bytes()));
    let tokens: usize = samples.iter().map(Vec::len).sum();
    let mut types = Crc::new();
    plan.tensors.iter().for_each(|t| types.update(format!("{} {}\n", t.name, t.spec().name).as_bytes()));
    format!(
        "aurora-quant {}\n{}\ntensors {:08x}\ntypes {:08x}\ntext {tokens} tokens in {} samples, {:08x}\n",
        env!("CARGO_PKG_VERSION"),
        recipe.to_toml().trim_end(),
        fingerprint(source),
        types.sum(),
        samples.len(),
        text.sum()
    )
}
