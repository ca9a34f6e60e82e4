//! What the bytes of a run depend on, in words: a run that was stopped is gone on from only by the same one.

use flate2::Crc;

use super::Job;

/// All that decides the bytes, a line each: the recipe, and checksums of what it names.
pub(super) fn identity(job: &Job, samples: &[Vec<u32>]) -> String {
    let mut text = Crc::new();
    samples.iter().flatten().for_each(|token| text.update(&token.to_le_bytes()));
    let tokens: usize = samples.iter().map(Vec::len).sum();
    let mut types = Crc::new();
    job.plan.tensors.iter().for_each(|t| types.update(format!("{} {}\n", t.name, t.spec().name).as_bytes()));
    let mut tensors = Crc::new();
    job.opened.source.tensors().iter().for_each(|t| {
        tensors.update(format!("{} {:?} {}\n", t.name, t.shape, t.spec.name).as_bytes());
        // Some of every tensor's bytes tell one checkpoint from another of its shape without reading it all.
        let head = t.range.len().min(256);
        tensors.update(job.opened.source.bytes(t, 0..head));
    });
    format!(
        "aurora-quant {}\n{}\ntensors {:08x}\ntypes {:08x}\ntext {tokens} tokens in {} samples, {:08x}\n",
        env!("CARGO_PKG_VERSION"),
        job.recipe.to_toml().trim_end(),
        tensors.sum(),
        types.sum(),
        samples.len(),
        text.sum()
    )
}
