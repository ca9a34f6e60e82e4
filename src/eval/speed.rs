//! How fast a model runs: prompt and generation, each timed over several runs after a warm-up.
//!
//! Tokens are arbitrary, because the work does not depend on them (except for which experts a mixture uses). They are
//! the same in every run and every version of the program.

use std::time::Instant;

use crate::runtime::Engine;
use crate::{Error, Result};

/// Maximum number of tokens to generate without a key-value cache, where each costs a pass over all earlier ones.
pub const MOST_WITHOUT_CACHE: usize = 256;

/// What to time.
#[derive(Debug, Clone, Copy)]
pub struct Workload {
    /// Length of the prompt in tokens; 0 to skip it.
    pub prompt: usize,
    /// Tokens to generate, from an empty context; 0 to skip it.
    pub generate: usize,
    /// Timed runs of each.
    pub runs: usize,
    /// Whether keys and values of earlier tokens are cached. Without that, every token is computed from all before it.
    pub cache: bool,
}

/// Seconds for every timed run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Times {
    /// Prompts, up to the logits of the last token.
    pub prompt: Vec<f64>,
    /// Generations, up to the logits of the last token.
    pub generate: Vec<f64>,
}

/// Runs a workload; `watch` is told what begins ("prompt, run 2 of 5").
///
/// # Errors
/// If there is nothing to time, the context is too short, or the model fails.
pub fn time(engine: &Engine, workload: &Workload, watch: &mut dyn FnMut(&str)) -> Result<Times> {
    if workload.runs == 0 || workload.prompt + workload.generate == 0 {
        let what = "nothing to measure: `runs` and one of `prompt` and `generate` must be above zero";
        return Err(Error::conflict(["runs", "prompt", "generate"], what));
    }
    if !workload.cache && workload.generate > MOST_WITHOUT_CACHE {
        let tokens = workload.generate * (workload.generate + 1) / 2;
        let what = format!(
            "`no_kv_cache` with `generate` {}: that would compute {tokens} tokens in each run; use `generate` \
             {MOST_WITHOUT_CACHE} or less",
            workload.generate
        );
        return Err(Error::conflict(["no_kv_cache", "generate"], what));
    }
    let graph = &engine.model().graph;
    let tokens = tokens(workload.prompt.max(workload.generate), graph.slots[graph.logits.0]);
    let mut session = engine.session();
    session.reserve(tokens.len());
    let mut prompt = || {
        session.reset();
        engine.forward(&mut session, &tokens[..workload.prompt], workload.prompt - 1).map(|_| ())
    };
    let mut times = Times::default();
    if workload.prompt > 0 {
        times.prompt = series("prompt", workload.runs, watch, &mut prompt)?;
    }
    let mut session = engine.session();
    session.reserve(tokens.len());
    let mut generate = || {
        session.reset();
        for i in 0..workload.generate {
            if !workload.cache {
                session.reset();
            }
            let first = if workload.cache { i } else { 0 };
            engine.forward(&mut session, &tokens[first..=i], i - first)?;
        }
        Ok(())
    };
    if workload.generate > 0 {
        times.generate = series("generation", workload.runs, watch, &mut generate)?;
    }
    Ok(times)
}

fn series(
    what: &str,
    runs: usize,
    watch: &mut dyn FnMut(&str),
    run: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<f64>> {
    watch(&format!("{what}, warm-up"));
    run()?;
    (1..=runs)
        .map(|i| {
            watch(&format!("{what}, run {i} of {runs}"));
            let started = Instant::now();
            run()?;
            Ok(started.elapsed().as_secs_f64())
        })
        .collect()
}

/// Arbitrary tokens below `vocab`: steps of the golden ratio of 2^32, which spread evenly.
fn tokens(n: usize, vocab: usize) -> Vec<u32> {
    (1..=n as u64).map(|i| (((i * 2_654_435_769 % (1 << 32)) * vocab as u64) >> 32) as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_valid_and_varied() {
        let tokens = tokens(1000, 77);
        assert!(tokens.iter().all(|&t| t < 77));
        let mut seen = tokens.clone();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 77);
    }
}
