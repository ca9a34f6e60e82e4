//! The tokens a model is calibrated on: text files, cut into samples of equal length.
//!
//! This follows llama-imatrix: a whole text is tokenised and cut into consecutive chunks; the rest at the end is
//! dropped; and if the model wants a BOS token, it replaces the first token of every chunk. Beyond that, there can be
//! several files, conversations, and a seeded choice of some of the chunks.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use crate::checkpoint::json;
use crate::error::Fault;
use crate::text::{ChatTemplate, Conversation, Special, Tokenizer, read_file};
use crate::{Error, Result};

/// Fewest tokens in a sample: the first sees nothing, and attention must have something to choose from.
pub const SHORTEST: usize = 2;

/// The name of the embedded text in records.
pub const EMBEDDED: &str = "mix (embedded)";

/// The embedded calibration text: prose in several languages, code, tables, chat turns, lists and mathematics.
/// `calibration-data/manifest.toml` names every part.
///
/// # Errors
/// If the binary is damaged.
pub fn embedded() -> Result<String> {
    let packed: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/mix.deflate"));
    let mut text = String::new();
    let unpacked = flate2::read::DeflateDecoder::new(packed).read_to_string(&mut text);
    unpacked.map_err(|e| Error::Bug {
        what: "the embedded text cannot be unpacked; reinstall this program".to_owned(),
        source: Some(e.into()),
    })?;
    Ok(text)
}

/// Which samples of a text to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Tokens in a sample.
    pub context: usize,
    /// Maximum number of samples; all if `None`.
    pub samples: Option<usize>,
    /// Seed for the choice, if not all are used.
    pub seed: u64,
}

/// Samples of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// The files, as named by the user.
    pub names: Vec<String>,
    /// Tokens in a sample.
    pub context: usize,
    /// Number of samples available in the files.
    pub available: usize,
    /// The samples, in text order.
    pub samples: Vec<Vec<u32>>,
}

impl Dataset {
    /// Reads text files, or `.jsonl` files with a `text` or `messages` in every line; without files, the embedded text.
    ///
    /// # Errors
    /// If a file cannot be read, is not UTF-8, is empty or not what its name says, or has conversations although the
    /// model has no chat template; or if all files together do not fill one sample (the error says how long they are,
    /// and what to try).
    pub fn load(files: &[PathBuf], tokenizer: &Tokenizer, choice: Choice) -> Result<Dataset> {
        let Choice { context, .. } = choice;
        if context < SHORTEST {
            let what = format!("a sample needs at least {SHORTEST} tokens");
            return Err(Error::setting("text.context", context, what));
        }
        let (mut chunks, mut longest) = (Vec::new(), 0);
        let texts: Vec<Vec<u32>> = match files {
            [] => vec![tokenizer.encode(&embedded()?, Special::TEXT)?],
            files => files.iter().map(|path| read(path, tokenizer)).collect::<Result<_>>()?,
        };
        for tokens in texts {
            longest = longest.max(tokens.len());
            chunks.extend(tokens.chunks_exact(context).map(<[u32]>::to_vec));
        }
        if chunks.is_empty() {
            let what = format!(
                "the text has {longest} tokens, but one sample of `text.context` {context} needs {context}; use a longer text or \
                 use a smaller `text.context`"
            );
            return Err(Error::TooShort { found: longest, needed: context, what });
        }
        let available = chunks.len();
        let mut samples = choose(chunks, choice);
        if let Some(bos) = tokenizer.bos().filter(|_| tokenizer.adds_bos()) {
            samples.iter_mut().for_each(|tokens| tokens[0] = bos);
        }
        let names = match files {
            [] => vec![EMBEDDED.to_owned()],
            files => files.iter().map(|f| f.display().to_string()).collect(),
        };
        Ok(Dataset { names, context, available, samples })
    }

    /// Tokens in all samples.
    pub fn tokens(&self) -> usize {
        self.samples.len() * self.context
    }
}

/// Chooses some of the chunks by a partial shuffle, and returns them in order.
fn choose(mut chunks: Vec<Vec<u32>>, choice: Choice) -> Vec<Vec<u32>> {
    let Some(count) = choice.samples.filter(|&n| n < chunks.len()) else { return chunks };
    let mut order: Vec<usize> = (0..chunks.len()).collect();
    let mut state = choice.seed;
    for i in 0..count {
        // The bias of the remainder is below 2^-40 for any number of chunks that fits in memory.
        let other = i + (split_mix(&mut state) % (order.len() - i) as u64) as usize;
        order.swap(i, other);
    }
    order.truncate(count);
    order.sort_unstable();
    order.into_iter().map(|i| std::mem::take(&mut chunks[i])).collect()
}

/// SplitMix64 (Steele, Lea and Flood 2014): the next of a sequence of well-mixed numbers.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn read(path: &Path, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let text = read_file(path, "calibrate on")?;
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("jsonl")) {
        return documents(path, &text, tokenizer);
    }
    // llama-imatrix drops one line feed at the end.
    tokenizer.encode(text.strip_suffix('\n').unwrap_or(&text), Special::TEXT)
}

/// Reads one document or conversation per line; their tokens follow each other.
fn documents(path: &Path, text: &str, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let mut template = None;
    let mut all = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let line_number = format!("line {}", number + 1);
        let at = |fault: Fault| fault.about(&line_number).of(path);
        let value: Json = json::parse(line.as_bytes()).map_err(at)?;
        if let Some(text) = value.get("text").and_then(Json::as_str) {
            all.extend(tokenizer.encode(text, Special::TEXT)?);
            continue;
        }
        let Some(object) = value.as_object().filter(|o| o.contains_key("messages")) else {
            return Err(at("must be an object with a string \"text\" or a list \"messages\"".into()));
        };
        let conversation = Conversation::from_json(object).map_err(|what| at(what.into()))?;
        if template.is_none() {
            template = Some(ChatTemplate::open(tokenizer)?);
        }
        let rendered = template.as_ref().expect("opened above").render(conversation, false);
        // A template's error says why it refuses a conversation, but not which.
        let rendered = rendered
            .map_err(|e| Error::Text { what: format!("{}: {line_number}", path.display()), source: Some(e.into()) })?;
        all.extend(tokenizer.encode(&rendered, Special::RENDERED)?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(of: u32, samples: usize, seed: u64) -> Vec<u32> {
        let chunks = (0..of).map(|i| vec![i]).collect();
        choose(chunks, Choice { context: 1, samples: Some(samples), seed }).concat()
    }

    #[test]
    fn the_embedded_text_is_the_file() {
        assert!(embedded().unwrap() == include_str!("../../calibration-data/mix.txt"));
    }

    #[test]
    fn a_choice_is_in_order_without_repeats_and_follows_the_seed() {
        let some = chosen(100, 20, 1);
        assert_eq!(some.len(), 20);
        assert!(some.windows(2).all(|p| p[0] < p[1]), "{some:?}");
        assert_eq!(some, chosen(100, 20, 1));
        assert_ne!(some, chosen(100, 20, 2));
        assert_eq!(chosen(5, 9, 0), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn every_chunk_is_chosen_as_often_as_another() {
        let mut hits = [0_u32; 10];
        for seed in 0..2000 {
            chosen(10, 3, seed).into_iter().for_each(|i| hits[i as usize] += 1);
        }
        // Of 2000 draws each is in 600 on average, with a deviation of 20.5.
        assert!(hits.iter().all(|&n| (500..700).contains(&n)), "{hits:?}");
    }
}
