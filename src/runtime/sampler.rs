//! Chooses the next token from logits.
//!
//! In go the logits of one position and the tokens so far, out comes a token. The order is that of llama.cpp's default
//! chain: repeat penalty, top-k, top-p, min-p, temperature, draw. So top-p and min-p judge the model's own
//! probabilities, and the temperature only flattens or sharpens what they left. Knows nothing of models or text.

use std::collections::VecDeque;

use ndarray::ArrayView1;

/// How tokens are chosen. The default is llama.cpp's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplerOptions {
    /// Logits are divided by it before the draw; 0 takes the most probable token, the lowest id of equals.
    pub temperature: f32,
    /// Only the `top_k` most probable tokens; 0: all.
    pub top_k: usize,
    /// Of these, the most probable ones that together have this probability; at least one.
    pub top_p: f32,
    /// Of these, the ones that are at least this times as probable as the most probable one.
    pub min_p: f32,
    /// Positive logits of tokens in the window are divided by it, negative ones multiplied; 1: off.
    pub repeat_penalty: f32,
    /// How many of the last tokens the penalty looks at.
    pub repeat_window: usize,
    /// Where the random numbers begin.
    pub seed: u64,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        SamplerOptions {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_window: 64,
            seed: 0,
        }
    }
}

/// A sampler with its memory of tokens and its random numbers. The same logits and the same seed give the same tokens.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: SamplerOptions,
    window: VecDeque<u32>,
    random: SplitMix64,
    /// Logit and id of what is left; kept for its memory.
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    /// A sampler that has seen no token.
    pub fn new(sampling: SamplerOptions) -> Self {
        let random = SplitMix64(sampling.seed);
        Sampler { sampling, window: VecDeque::new(), random, candidates: Vec::new() }
    }

    /// Tells it a token of the sequence, of the prompt or chosen.
    pub fn accept(&mut self, token: u32) {
        if self.sampling.repeat_window > 0 && self.window.len() == self.sampling.repeat_window {
            self.window.pop_front();
        }
        if self.sampling.repeat_window > 0 {
            self.window.push_back(token);
        }
    }

    /// Chooses a token by its logits, one for each of the vocabulary; it is not yet accepted. A logit that is not a
    /// number is never chosen.
    ///
    /// # Panics
    /// If there are no logits.
    pub fn sample(&mut self, logits: ArrayView1<'_, f32>) -> u32 {
        assert!(!logits.is_empty(), "a token is chosen from at least one logit");
        self.candidates.clear();
        let number = |x: f32| if x.is_nan() { f32::NEG_INFINITY } else { x };
        self.candidates.extend(logits.iter().map(|&x| number(x)).zip(0..));
        self.penalise();
        if self.sampling.temperature <= 0.0 {
            let best = self.candidates.iter().copied().reduce(|a, b| if b.0 > a.0 { b } else { a });
            return best.expect("at least one").1;
        }
        self.keep_top_k();
        self.keep_top_p();
        self.keep_min_p();
        self.draw()
    }

    fn penalise(&mut self) {
        let penalty = self.sampling.repeat_penalty;
        if penalty == 1.0 {
            return;
        }
        let mut seen: Vec<u32> = self.window.iter().copied().collect();
        seen.sort_unstable();
        seen.dedup();
        for token in seen {
            if let Some((logit, _)) = self.candidates.get_mut(token as usize) {
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }

    /// Sorts as well: the most probable first, the lower id of equals.
    fn keep_top_k(&mut self) {
        let order = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        let k = self.sampling.top_k;
        if k > 0 && k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(k - 1, order);
            self.candidates.truncate(k);
        }
        self.candidates.sort_unstable_by(order);
    }

    fn keep_top_p(&mut self) {
        if self.sampling.top_p >= 1.0 {
            return;
        }
        let weights = weights(&self.candidates, 1.0);
        let needed = weights.iter().sum::<f64>() * f64::from(self.sampling.top_p);
        let mut sum = 0.0;
        let enough = weights.iter().position(|w| {
            sum += w;
            sum >= needed
        });
        self.candidates.truncate(enough.map_or(self.candidates.len(), |i| i + 1));
    }

    fn keep_min_p(&mut self) {
        if self.sampling.min_p <= 0.0 {
            return;
        }
        let weights = weights(&self.candidates, 1.0);
        let kept = weights.iter().take_while(|&&w| w >= f64::from(self.sampling.min_p)).count();
        self.candidates.truncate(kept.max(1));
    }

    fn draw(&mut self) -> u32 {
        let weights = weights(&self.candidates, self.sampling.temperature);
        let mut left = self.random.unit() * weights.iter().sum::<f64>();
        let drawn = weights.iter().position(|w| {
            left -= w;
            left < 0.0
        });
        // Rounding may leave a crumb behind the last one.
        self.candidates[drawn.unwrap_or(self.candidates.len() - 1)].1
    }
}

/// exp of the distance to the best logit, which is the first; the best has weight 1.
fn weights(candidates: &[(f32, u32)], temperature: f32) -> Vec<f64> {
    let best = f64::from(candidates[0].0);
    let weight = |logit: f32| match f64::from(logit) - best {
        // Of infinities: the best keep their weight, all others have none.
        d if d.is_nan() => 1.0,
        d => (d / f64::from(temperature)).exp(),
    };
    candidates.iter().map(|c| weight(c.0)).collect()
}

/// Steele, Lea and Flood's generator (2014): a counter and a mixing of its bits, the same on every machine.
#[derive(Debug, Clone, Copy)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1), from the upper 53 bits.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use ndarray::aview1;

    use super::*;

    /// Everything off: plain sampling of the softmax.
    const PLAIN: SamplerOptions = SamplerOptions {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repeat_penalty: 1.0,
        repeat_window: 64,
        seed: 7,
    };

    fn logits(seed: u64, n: usize) -> Vec<f32> {
        let mut random = SplitMix64(seed);
        (0..n).map(|_| (random.unit() * 8.0 - 4.0) as f32).collect()
    }

    /// Probabilities by the definitions, one filter after the other.
    fn direct(logits: &[f32], s: &SamplerOptions, window: &[u32]) -> Vec<f64> {
        let mut x: Vec<f64> = logits.iter().map(|&l| f64::from(l)).collect();
        for (_, x) in x.iter_mut().enumerate().filter(|(i, _)| window.contains(&(*i as u32))) {
            let penalty = f64::from(s.repeat_penalty);
            *x = f64::from((if *x > 0.0 { *x / penalty } else { *x * penalty }) as f32);
        }
        let softmax = |x: &[f64], t: f64| {
            let sum: f64 = x.iter().map(|x| (x / t).exp()).sum();
            x.iter().map(|x| (x / t).exp() / sum).collect::<Vec<_>>()
        };
        let rank =
            |x: &[f64], i: usize| x.iter().enumerate().filter(|(j, y)| **y > x[i] || **y == x[i] && *j < i).count();
        if s.top_k > 0 {
            let old = x.clone();
            (0..x.len()).filter(|&i| rank(&old, i) >= s.top_k).for_each(|i| x[i] = f64::NEG_INFINITY);
        }
        let (old, p) = (x.clone(), softmax(&x, 1.0));
        for i in 0..x.len() {
            // Kept while those before it have less than top_p.
            let before: f64 = (0..x.len()).filter(|&j| rank(&old, j) < rank(&old, i)).map(|j| p[j]).sum();
            if s.top_p < 1.0 && before >= f64::from(s.top_p) {
                x[i] = f64::NEG_INFINITY;
            }
        }
        let p = softmax(&x, 1.0);
        let best = p.iter().copied().fold(0.0, f64::max);
        (0..x.len()).filter(|&i| p[i] < best * f64::from(s.min_p)).for_each(|i| x[i] = f64::NEG_INFINITY);
        softmax(&x, f64::from(s.temperature))
    }

    #[test]
    fn frequencies_are_those_of_the_direct_formulas() {
        let cases = [
            PLAIN,
            SamplerOptions { temperature: 0.5, ..PLAIN },
            SamplerOptions { top_k: 5, ..PLAIN },
            SamplerOptions { top_p: 0.7, ..PLAIN },
            SamplerOptions { min_p: 0.2, ..PLAIN },
            SamplerOptions { repeat_penalty: 1.7, ..PLAIN },
            SamplerOptions { top_k: 9, top_p: 0.9, min_p: 0.1, temperature: 1.6, repeat_penalty: 1.2, ..PLAIN },
        ];
        const DRAWS: usize = 40_000;
        for (i, case) in cases.into_iter().enumerate() {
            let logits = logits(i as u64, 17);
            let mut sampler = Sampler::new(case);
            let window = [3, 5, 5, 11];
            window.iter().for_each(|&t| sampler.accept(t));
            let mut counts = [0usize; 17];
            for _ in 0..DRAWS {
                counts[sampler.sample(aview1(&logits)) as usize] += 1;
            }
            for (token, p) in direct(&logits, &case, &window).into_iter().enumerate() {
                let found = counts[token] as f64 / DRAWS as f64;
                // Five standard errors of a frequency; what is cut off is never drawn.
                let allowed = 5.0 * (p * (1.0 - p) / DRAWS as f64).sqrt();
                assert!((found - p).abs() <= allowed, "case {i}, token {token}: {found}, wanted {p}");
            }
        }
    }

    #[test]
    fn temperature_zero_takes_the_lowest_of_the_best() {
        let mut sampler = Sampler::new(SamplerOptions { temperature: 0.0, ..PLAIN });
        assert_eq!(sampler.sample(aview1(&[0.0, 2.0, f32::NAN, 2.0, -1.0])), 1);
        assert_eq!(sampler.sample(aview1(&[f32::NEG_INFINITY; 3])), 0);
        let mut sampler = Sampler::new(SamplerOptions { temperature: 0.0, repeat_penalty: 3.0, ..PLAIN });
        sampler.accept(1);
        assert_eq!(sampler.sample(aview1(&[1.0, 2.0, 0.5])), 0);
    }

    #[test]
    fn extremes_choose_something() {
        for case in [PLAIN, SamplerOptions::default(), SamplerOptions { top_k: 1, top_p: 0.0, min_p: 1.0, ..PLAIN }] {
            let mut sampler = Sampler::new(case);
            for logits in [&[0.0f32; 1][..], &[f32::NEG_INFINITY; 4], &[f32::NAN; 4], &[f32::MAX, f32::MIN, 0.0]] {
                assert!((sampler.sample(aview1(logits)) as usize) < logits.len());
            }
            assert_eq!(sampler.sample(aview1(&[0.0, f32::INFINITY, 0.0])), 1);
        }
    }

    #[test]
    fn the_window_forgets() {
        let mut sampler =
            Sampler::new(SamplerOptions { temperature: 0.0, repeat_penalty: 9.0, repeat_window: 2, ..PLAIN });
        for (accepted, wanted) in [(0, 1), (1, 2), (2, 0), (2, 0)] {
            sampler.accept(accepted);
            assert_eq!(sampler.sample(aview1(&[3.0, 2.9, 2.8])), wanted);
        }
    }

    #[test]
    fn the_generator_is_the_published_one() {
        let mut random = SplitMix64(1_234_567);
        let wanted = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([random.next(), random.next(), random.next()], wanted);
        let text = |seed| {
            let mut sampler = Sampler::new(SamplerOptions { seed, ..PLAIN });
            (0..20).map(|i| sampler.sample(aview1(&logits(i, 50)))).collect::<Vec<_>>()
        };
        assert_eq!(text(1), text(1));
        assert_ne!(text(1), text(2));
    }
}
