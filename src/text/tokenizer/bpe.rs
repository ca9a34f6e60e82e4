//! Byte-level BPE (GPT-2's kind) as llama.cpp does it: the text is split by the pre-tokenizer, each word is spelled in
//! GPT-2's byte alphabet, and the merge with the lowest rank goes first.

use std::collections::HashMap;

use super::keys::{Keys, MERGES};
use super::merge::Merger;
use super::pre::Splitter;
use super::vocab::Vocab;
use crate::Result;
use crate::checkpoint::tokenizer::{byte_alphabet, ignores_merges};

/// Merges by the tokens they join, and how text is split into words.
#[derive(Debug)]
pub(super) struct Bpe {
    /// Rank and token of a merge.
    merges: HashMap<(u32, u32), (u32, u32)>,
    splitter: Splitter,
    /// A word that is a token is taken as it is, whether or not merges lead there.
    ignore_merges: bool,
    letters: [Letter; 256],
}

/// A byte's letter in GPT-2's alphabet.
#[derive(Debug, Clone, Copy)]
struct Letter {
    letter: char,
    id: Option<u32>,
}

impl Bpe {
    /// # Errors
    /// If a merge names a token that does not exist, or the pre-tokenizer `pre` is not known.
    pub fn new(keys: &Keys, vocab: &Vocab, pre: &str, ranks: Vec<(String, String)>) -> Result<Self> {
        let mut merges = HashMap::with_capacity(ranks.len());
        for (rank, (left, right)) in ranks.into_iter().enumerate() {
            let id = |text: &str| {
                let what = || format!("merge {rank}, {left:?} and {right:?}: {text:?} is not in the vocabulary");
                vocab.id(text).ok_or_else(|| keys.error(MERGES, what()))
            };
            let (pair, made) = ((id(&left)?, id(&right)?), id(&format!("{left}{right}"))?);
            // The first of equal merges counts. As many ranks as strings that fit into memory.
            merges.entry(pair).or_insert((rank as u32, made));
        }
        let letters = byte_alphabet().map(|letter| Letter { letter, id: vocab.id(letter.encode_utf8(&mut [0; 4])) });
        Ok(Bpe { merges, splitter: Splitter::new(keys.path, pre)?, ignore_merges: ignores_merges(pre), letters })
    }

    /// Appends the tokens of `text`, which holds no special tokens. A byte that the vocabulary does not have is left
    /// out, as in llama.cpp.
    pub fn encode(&self, text: &str, vocab: &Vocab, ids: &mut Vec<u32>) {
        let mut merger = Merger::default();
        let mut spelled = String::new();
        for word in self.splitter.split(text) {
            if self.ignore_merges {
                spelled.clear();
                spelled.extend(word.bytes().map(|b| self.letters[usize::from(b)].letter));
                if let Some(id) = vocab.id(&spelled) {
                    ids.push(id);
                    continue;
                }
            }
            let letter = |(at, byte): (usize, u8)| (at, at + 1, self.letters[usize::from(byte)].id);
            merger.start(word.bytes().enumerate().map(letter));
            let merged = merger.run(|left, right| self.merges.get(&(left.id?, right.id?)).copied());
            ids.extend(merged.filter_map(|symbol| symbol.id));
        }
    }
}
