//! The tokenizer of a source: text to token ids and back.
//!
//! A Hugging Face directory is tokenised by its tokenizer.json (the `tokenizers` crate), so that a checkpoint is
//! measured as its authors meant it; a GGUF file by its `tokenizer.ggml.*` keys, as llama.cpp does. The two agree but
//! for what GGUF cannot say (Unicode normalisation, for one). The vocabulary, the roles of tokens and decoding come
//! from the keys in both cases: for a directory, from those that a conversion would write.

mod bpe;
mod hf;
mod keys;
mod merge;
mod pre;
mod restore;
mod special;
mod special_tokens;
mod spm;
mod stream;
mod vocab;

use std::path::Path;

use crate::checkpoint::config::HfConfig;
use crate::checkpoint::tokenizer::{metadata, named_tokens};
use crate::checkpoint::{Config, TensorSource};
use crate::gguf::Metadata;
use crate::{Error, Result};

pub use self::restore::{Restored, restored};
pub use self::special_tokens::{Control, Special};
pub use self::stream::Decoder;

use self::bpe::Bpe;
use self::hf::TokenizerJson;
use self::keys::Keys;
use self::special::{Cutter, Fragment};
use self::vocab::Vocab;

/// The tokenizer of a source.
#[derive(Debug)]
pub struct Tokenizer {
    vocab: Vocab,
    bos: Option<u32>,
    end: Option<u32>,
    eos: Vec<u32>,
    add_bos: bool,
    /// Spellings of tokens by the names that chat templates know them under.
    named: Vec<(String, String)>,
    metadata: Metadata,
    /// Whether a text that starts a sequence gets a space in front, which decoding takes away again.
    space_prefix: bool,
    encoder: Encoder,
}

/// The part that depends on the kind of vocabulary.
#[derive(Debug)]
enum Encoder {
    Json(Box<TokenizerJson>),
    SentencePiece { cutter: Cutter, add_eos: Option<u32> },
    ByteLevel { cutter: Cutter, bpe: Box<Bpe>, add_eos: Option<u32> },
}

impl Tokenizer {
    /// Reads the tokenizer of `source`.
    ///
    /// # Errors
    /// If there is none, if it is of a kind that is not supported, or if its keys or files contradict each other: which
    /// file and key, what was found.
    pub fn open(source: &dyn TensorSource) -> Result<Tokenizer> {
        match source.config() {
            Config::Gguf(config) => Self::from_keys(&config.path, &config.metadata),
            Config::HuggingFace(config) => Self::from_directory(config),
        }
    }

    /// The tokenizer that the `tokenizer.ggml.*` keys of `metadata` describe; `path` is only named in errors.
    ///
    /// # Errors
    /// As [`Tokenizer::open`].
    pub fn from_keys(path: &Path, metadata: &Metadata) -> Result<Tokenizer> {
        let keys = Keys { path, metadata };
        let mut loaded = keys.load()?;
        let cutter = Cutter::new(&loaded.vocab, keys.strips_like_phi3()?);
        let encoder = match loaded.ranks.take() {
            None => Encoder::SentencePiece { cutter, add_eos: loaded.add_eos },
            Some(ranks) => {
                let bpe = Box::new(Bpe::new(&keys, &loaded.vocab, &loaded.pre, ranks)?);
                Encoder::ByteLevel { cutter, bpe, add_eos: loaded.add_eos }
            }
        };
        Ok(Tokenizer {
            named: loaded.named(metadata),
            vocab: loaded.vocab,
            bos: loaded.bos,
            end: loaded.end,
            eos: loaded.eos,
            add_bos: loaded.add_bos,
            metadata: metadata.clone(),
            space_prefix: loaded.space_prefix,
            encoder,
        })
    }

    fn from_directory(config: &HfConfig) -> Result<Tokenizer> {
        let dir = config.path.parent().unwrap_or(&config.path);
        let rows = config.size("vocab_size")?;
        let json = dir.join("tokenizer.json");
        let mut keys = Metadata::new();
        if !json.is_file() {
            metadata(dir, config, rows, None, &mut keys)?;
            let mut tokenizer = Self::from_keys(dir, &keys)?;
            tokenizer.named = named_tokens(dir, tokenizer.named)?;
            tokenizer.eos = hf::with_listed_ends(config, tokenizer.eos, rows);
            return Ok(tokenizer);
        }
        // tokenizer.json splits the text itself, so that the name of its pre-tokenizer does not matter.
        metadata(dir, config, rows, Some("gpt-2"), &mut keys)?;
        let encoder = TokenizerJson::open(&json)?;
        let loaded = Keys { path: dir, metadata: &keys }.load()?;
        Ok(Tokenizer {
            named: named_tokens(dir, loaded.named(&keys))?,
            bos: loaded.bos,
            end: loaded.end,
            add_bos: loaded.bos.is_some() && encoder.encode("", Special::TEXT)?.first() == loaded.bos.as_ref(),
            eos: hf::with_listed_ends(config, loaded.eos, rows),
            vocab: loaded.vocab,
            metadata: keys,
            space_prefix: loaded.space_prefix,
            encoder: Encoder::Json(Box::new(encoder)),
        })
    }

    /// The ids of `text`.
    ///
    /// # Errors
    /// If the vocabulary cannot spell a part of the text.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>> {
        let (cutter, add_eos) = match &self.encoder {
            Encoder::Json(json) => return json.encode(text, special),
            Encoder::SentencePiece { cutter, add_eos } | Encoder::ByteLevel { cutter, add_eos, .. } => {
                (cutter, add_eos)
            }
        };
        let mut ids: Vec<u32> = self.bos.filter(|_| special.add && self.add_bos).into_iter().collect();
        let mut starts = true;
        for fragment in cutter.cut(text, special.parse) {
            match fragment {
                Fragment::Token(id) => ids.push(id),
                Fragment::Text(text) => match &self.encoder {
                    Encoder::ByteLevel { bpe, .. } => bpe.encode(text, &self.vocab, &mut ids),
                    _ => spm::encode(text, self.space_prefix && starts, &self.vocab, &mut ids)?,
                },
            }
            starts = matches!(fragment, Fragment::Token(_));
        }
        ids.extend(add_eos.filter(|_| special.add));
        Ok(ids)
    }

    /// The text of `ids`, which start a sequence; bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// If an id is outside the vocabulary.
    pub fn decode(&self, ids: &[u32], control: Control) -> Result<String> {
        let bytes = self.decode_bytes(ids, control)?;
        Ok(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
    }

    /// The bytes of `ids`, which start a sequence.
    ///
    /// # Errors
    /// If an id is outside the vocabulary.
    pub fn decode_bytes(&self, ids: &[u32], control: Control) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for &id in ids {
            bytes.extend_from_slice(self.piece(id, control)?);
        }
        // The space that encoding puts before a text is no part of it.
        if self.space_prefix && bytes.first() == Some(&b' ') {
            bytes.remove(0);
        }
        Ok(bytes)
    }

    fn piece(&self, id: u32, control: Control) -> Result<&[u8]> {
        self.vocab
            .piece(id, control == Control::Show)
            .ok_or_else(|| Error::text(format!("token {id} is outside the vocabulary of {} tokens", self.vocab.len())))
    }

    /// The token that begins a sequence, if the model knows one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Whether [`Special::add`] puts [`Tokenizer::bos`] before a text.
    pub fn adds_bos(&self) -> bool {
        self.add_bos && self.bos.is_some()
    }

    /// The token that the model names as its end of text; chat templates write it.
    pub fn end_of_text(&self) -> Option<u32> {
        self.end
    }

    /// What `bos_token`, `eos_token` and their like stand for in a chat template.
    pub fn named_tokens(&self) -> &[(String, String)] {
        &self.named
    }

    /// Every token that ends a generation (end of text, of a turn, of a message), sorted.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// How many tokens there are: the ids are below this.
    pub fn vocab(&self) -> usize {
        self.vocab.len()
    }

    /// How the vocabulary spells a token.
    pub fn token(&self, id: u32) -> Option<&str> {
        self.vocab.token(id).map(|t| t.text.as_str())
    }

    /// The id of a spelling.
    pub fn id(&self, text: &str) -> Option<u32> {
        self.vocab.id(text)
    }

    /// The keys that describe the tokenizer: those of the file, or those that a conversion would write.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}
