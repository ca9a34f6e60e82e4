//! The file that `llama-perplexity --kl-divergence-base` writes and `--kl-divergence` reads.
//!
//! All little-endian: `_logits_`; context, vocabulary and number of chunks as 32-bit integers; the tokens of all
//! chunks, as in the text, as 32-bit integers; then a row of log-probabilities for every scored position. A row has two
//! f32, `scale` and `min`, and one 16-bit code per token (and one more if the vocabulary is odd): ln p = min + scale *
//! code. Logits more than 16 below the largest share code 0.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use aurora_quantizers::{elements, metrics};
use ndarray::{ArrayView2, aview1};
use rayon::prelude::*;
use tempfile::NamedTempFile;

use super::chunks::Chunks;
use crate::checkpoint::directory_of;
use crate::{Error, Result};

/// Logits further below the largest than this are not distinguished.
const RANGE: f32 = 16.0;
/// The largest code.
const STEPS: f32 = 65_535.0;

/// The file being written: a temporary sibling, so that an incomplete file never has the name.
pub struct LogitsFile {
    path: PathBuf,
    file: BufWriter<NamedTempFile>,
    vocab: usize,
}

impl LogitsFile {
    /// Begins the file for the logits of `chunks` from a model with `vocab` tokens.
    ///
    /// # Errors
    /// If the file cannot be created beside `path`.
    pub fn begin(path: &Path, chunks: &Chunks, vocab: usize) -> Result<LogitsFile> {
        let dir = directory_of(path);
        let mut builder = tempfile::Builder::new();
        builder.prefix(".aurora-logits-");
        #[cfg(unix)]
        {
            // Permissions of an ordinary new file (the umask still applies). Temporary files are private by default.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let temporary = builder.tempfile_in(dir).map_err(|e| Error::io(path, "create", e))?;
        let mut head = b"_logits_".to_vec();
        let numbers = [chunks.context(), vocab, chunks.count()].map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        head.extend(numbers.iter().chain(chunks.tokens()).flat_map(|n| n.to_le_bytes()));
        let mut file = LogitsFile { path: path.to_owned(), file: BufWriter::new(temporary), vocab };
        file.write(&head)?;
        Ok(file)
    }

    /// Appends rows of logits, `[positions, vocab]`.
    ///
    /// # Errors
    /// If writing fails.
    ///
    /// # Panics
    /// If the model's vocabulary is another one, or the rows do not lie one after the other.
    pub fn put(&mut self, rows: ArrayView2<'_, f32>) -> Result<()> {
        assert_eq!(rows.ncols(), self.vocab, "logits of a position");
        let encoded: Vec<Vec<u8>> = elements(rows).par_chunks(self.vocab).map(row).collect();
        encoded.iter().try_for_each(|bytes| self.write(bytes))
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// If the last bytes cannot be written or the file cannot be renamed.
    pub fn finish(self) -> Result<()> {
        let path = self.path;
        let file = self.file.into_inner().map_err(|e| Error::io(&path, "write", e.into_error()))?;
        file.persist(&path).map_err(|e| Error::io(&path, "rename to", e.error))?;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Error::io(&self.path, "write", e))
    }
}

/// One row of the file.
fn row(logits: &[f32]) -> Vec<u8> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let min = logits.iter().copied().fold(f32::INFINITY, f32::min).max(max - RANGE);
    let scale = (max - min) / STEPS;
    let smallest = (f64::from(min) - metrics::log_sum_exp(aview1(logits))) as f32;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let mut bytes = Vec::with_capacity(8 + 2 * logits.len().next_multiple_of(2));
    bytes.extend(scale.to_le_bytes());
    bytes.extend(smallest.to_le_bytes());
    // The cast clamps: rounding may go just past either end.
    bytes.extend(logits.iter().flat_map(|&v| ((inverse * (v - min)).round_ties_even() as u16).to_le_bytes()));
    bytes.resize(8 + 2 * logits.len().next_multiple_of(2), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_decode_to_log_probabilities_within_half_a_step() {
        let logits = [3.0f32, -1.5, 2.25, -40.0, 0.0];
        let bytes = row(&logits);
        assert_eq!(bytes.len(), 8 + 12);
        let number = |at: usize| f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let (scale, min) = (number(0), number(4));
        for (i, &v) in logits.iter().enumerate() {
            let code = u16::from_le_bytes(bytes[8 + 2 * i..][..2].try_into().unwrap());
            let want = f64::from(v.max(3.0 - RANGE)) - metrics::log_sum_exp(aview1(&logits));
            let got = f64::from(min + scale * f32::from(code));
            assert!((got - want).abs() <= f64::from(scale) * 0.51, "{v}: {got} {want}");
        }
    }

    #[test]
    fn a_flat_row_has_no_steps() {
        let bytes = row(&[1.0; 3]);
        assert_eq!(bytes[..4], [0; 4]);
        assert!(bytes[8..].iter().all(|&b| b == 0));
    }
}
