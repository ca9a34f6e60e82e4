//! An evaluation, from model to record: perplexity on a text, and the divergence from a reference.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::chunks::Chunks;
use super::divergence::divergence;
use super::logits::LogitsFile;
use super::perplexity::{self, Scores};
use super::{Scorer, Sequence, text};
use crate::checkpoint::Guard;
use crate::model::Opened;
use crate::record::{EvalRecord, Tool};
use crate::runtime::{Attention, CacheType, Engine, RuntimeOptions};
use crate::text::{Special, Tokenizer, read_file};
use crate::watch::Watch;
use crate::weights::Weights;
use crate::{Error, Result};

/// Default number of tokens per chunk: what published figures use.
const CONTEXT: usize = 512;

/// What to score, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Checkpoint or GGUF file to score.
    pub model: PathBuf,
    /// The reference to compare with, if any; both must have the same vocabulary.
    pub reference: Option<PathBuf>,
    /// UTF-8 text; by default the embedded held-out text.
    pub text: Option<PathBuf>,
    /// Tokens per chunk; by default 512, or the model's context length if shorter.
    pub context: Option<usize>,
    /// Maximum number of chunks to score, from the start of the text.
    pub chunks: Option<usize>,
    /// How keys and values are stored.
    pub cache: CacheType,
    /// Whether activations stay in f32 where they are multiplied with quantised weights.
    pub exact: bool,
    /// Where to write the model's log-probabilities, in llama-perplexity's format, if anywhere.
    pub save_logits: Option<PathBuf>,
}

impl Evaluation {
    /// Scores a model on its own, on the embedded text.
    pub fn new(model: impl Into<PathBuf>) -> Evaluation {
        Evaluation {
            model: model.into(),
            reference: None,
            text: None,
            context: None,
            chunks: None,
            cache: CacheType::F32,
            exact: false,
            save_logits: None,
        }
    }

    /// Opens the files, tokenises the text and scores it.
    ///
    /// # Errors
    /// If a model or the text cannot be read, the text does not fill a chunk, the vocabularies differ, a logit is not
    /// finite, a file changes in the meantime, or the watch says to stop.
    pub fn run(&self, watch: &dyn Watch) -> Result<EvalRecord> {
        let (text_name, scored) = self.scored()?;
        let opened = Opened::open(&self.model)?;
        let reference = self.reference.as_deref().map(Opened::open).transpose()?;
        let tokenizer = Tokenizer::open(opened.source.as_ref())?;
        let tokens = tokenizer.encode(text::scored(&scored), Special::TEXT)?;
        if let Some(reference) = &reference {
            same_tokens(&tokenizer, &tokens, reference, text::scored(&scored))?;
        }
        let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
        let context = opened.context(self.context, CONTEXT);
        let chunks = Chunks::new(&tokens, context, bos, self.chunks)?;
        let options = RuntimeOptions { context, exact: self.exact, cache: self.cache, attention: Attention::Flash };
        let weights = Weights::bind(opened.source.as_ref(), &opened.model.graph)?;
        let engine = Engine::new(&opened.model, &weights, options)?;
        let mut model = Sequence::new(&engine);
        let file = self.save_logits.as_deref().map(|path| LogitsFile::begin(path, &chunks, model.vocab()));
        let mut file = file.transpose()?;
        let watch = Guard::new(watch, [&opened].into_iter().chain(&reference).map(|model| &model.files));
        let started = Instant::now();
        let scores = match &reference {
            None => perplexity::alone(&mut model, &chunks, file.as_mut(), &watch)?,
            Some(reference) => {
                let weights = Weights::bind(reference.source.as_ref(), &reference.model.graph)?;
                let engine = Engine::new(&reference.model, &weights, options)?;
                perplexity::beside(&mut model, &mut Sequence::new(&engine), &chunks, file.as_mut(), &watch)?
            }
        };
        let seconds = started.elapsed().as_secs_f64();
        [&opened].into_iter().chain(&reference).try_for_each(|model| model.files.check())?;
        file.map_or(Ok(()), LogitsFile::finish)?;
        Ok(EvalRecord {
            tool: Tool::this(),
            model: self.model.display().to_string(),
            architecture: opened.model.arch.gguf.to_owned(),
            file_bytes: opened.files.bytes(),
            reference: self.reference.as_deref().map(|p| p.display().to_string()),
            text: text_name,
            context,
            chunks: chunks.count(),
            tokens_scored: scores.count(),
            exact: self.exact,
            cache_type: self.cache.name().to_owned(),
            threads: rayon::current_num_threads(),
            seconds,
            tokens_per_second: chunks.tokens().len() as f64 / seconds,
            perplexity: scores.perplexity().into(),
            nll: scores.nll().into(),
            divergence: match &scores {
                Scores::Alone(_) => None,
                Scores::Beside(all) => Some(divergence(all)),
            },
            notes: notes(&opened, reference.as_ref()),
        })
    }

    /// Name and contents of the text.
    fn scored(&self) -> Result<(String, String)> {
        match &self.text {
            None => Ok((text::HELDOUT_NAME.to_owned(), text::HELDOUT.to_owned())),
            Some(path) => Ok((path.display().to_string(), read_file(path, "score")?)),
        }
    }
}

/// What the user should know of the model, and of the reference.
fn notes(model: &Opened, reference: Option<&Opened>) -> Vec<String> {
    let of_reference = reference.into_iter().flat_map(|r| &r.model.notes).map(|note| format!("reference: {note}"));
    model.model.notes.iter().cloned().chain(of_reference).collect()
}

/// The reference must tokenise the text as the model does; otherwise its probabilities are of different events.
fn same_tokens(tokenizer: &Tokenizer, tokens: &[u32], reference: &Opened, text: &str) -> Result<()> {
    let other = Tokenizer::open(reference.source.as_ref())?;
    let others = other.encode(text, Special::TEXT)?;
    if others == tokens && other.adds_bos() == tokenizer.adds_bos() {
        return Ok(());
    }
    let at = tokens.iter().zip(&others).take_while(|(a, b)| a == b).count();
    let show = |t: &Tokenizer, ids: &[u32]| match ids.get(at) {
        Some(&id) => format!("{id} {:?}", t.token(id).unwrap_or_default()),
        None => "the end".to_owned(),
    };
    let what = format!(
        "{} splits the text into different tokens than the model does ({} against {}; token {at} is {}, the model's {}); only \
         models with the same vocabulary can be compared",
        Path::new(reference.source.path()).display(),
        others.len(),
        tokens.len(),
        show(&other, &others),
        show(tokenizer, tokens),
    );
    Err(Error::conflict(["model", "reference"], what))
}
