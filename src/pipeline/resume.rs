//! What a long run saves to disk after every block, so that it can continue if it is killed.
//!
//! This is a directory beside the output. `job` says what the run is. `block-N` holds the results for block N, and
//! `residuals-N` the residual streams after it, bit for bit: computed again, they might differ in the last place, and
//! every later code with them. A file has its name only once it is complete, and ends in a checksum of its bytes. A
//! block's residuals are written before the block, and removed once the next block is there, so a run can always
//! continue from the last block that has its name.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use flate2::{Crc, CrcWriter};
use ndarray::Array2;
use serde::{Deserialize, Serialize};

use super::done::Done;
use crate::error::Fault;
use crate::model::ParamId;
use crate::record::PassRecord;
use crate::weights::Edits;
use crate::{Error, Result};

const DAMAGED: &str = "damaged; delete the directory to start over";

/// Where a run keeps what it needs to go on.
pub struct Resume {
    dir: PathBuf,
}

/// How far an earlier run got.
pub struct State {
    /// Number of blocks that are done.
    pub blocks: usize,
    /// The results for each.
    pub done: Vec<Done>,
    /// The residual streams after the last of them, one for each sample: `[tokens, width]`.
    pub residuals: Vec<Array2<f32>>,
}

impl Resume {
    /// The directory for an output: its name with `.resume` at the end.
    pub fn directory(output: &Path) -> PathBuf {
        let mut name = output.file_name().unwrap_or_default().to_owned();
        name.push(".resume");
        output.with_file_name(name)
    }

    /// Opens or creates the directory. `job`: everything that the bytes depend on, as text.
    ///
    /// # Errors
    /// If it cannot be written, or belongs to another run.
    pub fn open(dir: PathBuf, job: &str) -> Result<Resume> {
        let named = dir.join("job");
        match fs::read_to_string(&named) {
            Ok(found) if found == job => {}
            Ok(found) => {
                let differs = found.lines().zip(job.lines()).find(|(a, b)| a != b);
                let (before, now) = differs.unwrap_or(("", ""));
                let what = format!(
                    "{}: holds a different unfinished run ({before:?} then, {now:?} now); use the same \
                     model and options, or delete this directory to start over",
                    dir.display()
                );
                return Err(Error::conflict(["resume"], what));
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                fs::create_dir_all(&dir).map_err(|e| Error::io(&dir, "create this directory", e))?;
                whole(&named, |file| file.write_all(job.as_bytes()))?;
            }
            Err(e) => return Err(Error::io(&named, "read", e)),
        }
        Ok(Resume { dir })
    }

    /// Where the run got to before; `None` if no block was finished. `width`: of the residual stream.
    ///
    /// # Errors
    /// If a file is damaged: the error names it.
    pub fn load(&self, width: usize) -> Result<Option<State>> {
        let blocks = (0..).take_while(|n| self.block(*n).exists()).count();
        if blocks == 0 {
            return Ok(None);
        }
        let done = (0..blocks).map(|n| self.read_block(n)).collect::<Result<_>>()?;
        let path = self.residuals(blocks - 1);
        let bytes = checked(&path)?;
        let damaged = || Fault::damaged(DAMAGED).of(&path);
        let (lengths, rest) = counts(&bytes).ok_or_else(damaged)?;
        let mut numbers = rest.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
        if lengths.iter().try_fold(0_usize, |sum, n| sum.checked_add(*n)) != Some(rest.len() / 4) {
            return Err(damaged());
        }
        let residuals = lengths.iter().map(|&n| {
            let shape = (n / width, width);
            Array2::from_shape_vec(shape, numbers.by_ref().take(n).collect()).map_err(|_| damaged())
        });
        Ok(Some(State { blocks, done, residuals: residuals.collect::<Result<_>>()? }))
    }

    /// Saves the results for block `index`, and the residual streams after it.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn save(&self, index: usize, done: &Done, residuals: &[Array2<f32>]) -> Result<()> {
        write(&self.residuals(index), |out| {
            out.write_all(&(residuals.len() as u64).to_le_bytes())?;
            residuals.iter().try_for_each(|r| out.write_all(&(r.len() as u64).to_le_bytes()))?;
            let mut bytes = Vec::new();
            residuals.iter().try_for_each(|residual| {
                bytes.clear();
                bytes.extend(residual.iter().flat_map(|x| x.to_le_bytes()));
                out.write_all(&bytes)
            })
        })?;
        let header = serde_json::to_vec(&Header::of(done)).expect("numbers and names become JSON");
        write(&self.block(index), |out| {
            out.write_all(&(header.len() as u64).to_le_bytes())?;
            out.write_all(&header)?;
            done.encoded.values().try_for_each(|bytes| out.write_all(bytes))
        })?;
        if index > 0 {
            // If it cannot be removed, it does no harm.
            let _ = fs::remove_file(self.residuals(index - 1));
        }
        Ok(())
    }

    /// Removes everything, once the output is complete.
    pub fn remove(self) {
        // Whatever is left does no harm; the output is there.
        let _ = fs::remove_dir_all(&self.dir);
    }

    fn block(&self, index: usize) -> PathBuf {
        self.dir.join(format!("block-{index}"))
    }

    fn residuals(&self, index: usize) -> PathBuf {
        self.dir.join(format!("residuals-{index}"))
    }

    fn read_block(&self, index: usize) -> Result<Done> {
        let path = self.block(index);
        let bytes = checked(&path)?;
        let damaged = || Fault::damaged(DAMAGED).of(&path);
        let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(damaged)?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok().filter(|n| *n <= rest.len());
        let (header, mut rest) = rest.split_at(length.ok_or_else(damaged)?);
        let header: Header =
            serde_json::from_slice(header).map_err(|e| Fault::damaged(DAMAGED).because(e).of(&path))?;
        let Header { encoded, fidelity, edits, records } = header;
        let fidelity = fidelity.into_iter().map(|(id, sums)| (ParamId(id), sums.into())).collect();
        let mut done = Done { fidelity, edits, records, ..Done::default() };
        for (id, length) in encoded {
            let (bytes, after) = rest.split_at_checked(length).ok_or_else(damaged)?;
            done.encoded.insert(ParamId(id), bytes.to_vec());
            rest = after;
        }
        Ok(done)
    }
}

/// The header before a block's bytes.
#[derive(Serialize, Deserialize)]
struct Header {
    /// Parameter and number of bytes, in the order of the bytes.
    encoded: Vec<(usize, usize)>,
    fidelity: Vec<(usize, [f64; 5])>,
    edits: Edits,
    records: Vec<PassRecord>,
}

impl Header {
    fn of(done: &Done) -> Header {
        Header {
            encoded: done.encoded.iter().map(|(id, bytes)| (id.0, bytes.len())).collect(),
            fidelity: done.fidelity.iter().map(|(id, fidelity)| (id.0, (*fidelity).into())).collect(),
            edits: done.edits.clone(),
            records: done.records.clone(),
        }
    }
}

/// A list of lengths, and what follows it.
fn counts(bytes: &[u8]) -> Option<(Vec<usize>, &[u8])> {
    let (n, rest) = bytes.split_first_chunk::<8>()?;
    let n = usize::try_from(u64::from_le_bytes(*n)).ok()?;
    let (list, rest) = rest.split_at_checked(n.checked_mul(8)?)?;
    let lengths = list.as_chunks::<8>().0.iter().map(|b| usize::try_from(u64::from_le_bytes(*b)).ok());
    Some((lengths.collect::<Option<_>>()?, rest))
}

fn write(path: &Path, fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    whole(path, |file| {
        let mut out = CrcWriter::new(BufWriter::new(file));
        fill(&mut out)?;
        let sum = out.crc().sum();
        out.write_all(&sum.to_le_bytes())?;
        out.flush()
    })
}

/// The contents of a file that [`write`] made.
fn checked(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|mut f| f.read_to_end(&mut bytes)).map_err(|e| Error::io(path, "read", e))?;
    let mut sum = Crc::new();
    let content = bytes.len().saturating_sub(4);
    sum.update(&bytes[..content]);
    if bytes.get(content..) != Some(&sum.sum().to_le_bytes()[..]) {
        let what = "damaged: wrong checksum; delete the directory to start over";
        return Err(Fault::damaged(what).of(path));
    }
    bytes.truncate(content);
    Ok(bytes)
}

/// Writes a file that gets its name only once it is complete.
fn whole(path: &Path, fill: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<()> {
    let part = path.with_extension("part");
    let made = File::create(&part).and_then(|mut file| fill(&mut file).and_then(|()| file.sync_data()));
    made.and_then(|()| fs::rename(&part, path)).map_err(|e| {
        let _ = fs::remove_file(&part);
        Error::io(path, "write", e)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ndarray::array;

    use super::*;
    use crate::weights::{Edit, Scale};

    fn done() -> Done {
        let factors = Scale { cols: Some(vec![0.1, f32::MIN_POSITIVE]), rows: None };
        let mut edits = Edits::new();
        edits.push(ParamId(4), None, Edit::Scale(factors.clone()));
        edits.push(ParamId(5), Some(2), Edit::Scale(factors));
        let mut record = PassRecord::new("gptq", Some(0), vec!["blk.0.attn_q.weight".to_owned()]);
        (record.tokens, record.after) = (7, Some(0.1 + 0.2));
        record.fact("range", (0.3, 1.7));
        Done {
            encoded: BTreeMap::from([(ParamId(3), vec![1, 2, 3]), (ParamId(9), vec![])]),
            fidelity: BTreeMap::from([(ParamId(9), [0.1, 1e-30, 0.0, 3.0, 7.5].into())]),
            edits,
            records: vec![record],
        }
    }

    #[test]
    fn what_was_saved_comes_back_bit_for_bit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.gguf.resume");
        let resume = Resume::open(path.clone(), "job 1").unwrap();
        assert!(resume.load(3).unwrap().is_none());
        let streams = [array![[0.1, -0.0, 3e-40]], Array2::zeros((0, 3)), array![[1.5, 2.5, 3.5], [-1.0, 0.0, 1.0]]];
        resume.save(0, &Done::default(), &[array![[9.0, 9.0, 9.0]]]).unwrap();
        resume.save(1, &done(), &streams).unwrap();
        assert!(!path.join("residuals-0").exists());
        let state = Resume::open(path.clone(), "job 1").unwrap().load(3).unwrap().unwrap();
        assert_eq!(state.blocks, 2);
        assert_eq!(state.done, [Done::default(), done()]);
        let bits =
            |streams: &[Array2<f32>]| -> Vec<Array2<u32>> { streams.iter().map(|s| s.mapv(f32::to_bits)).collect() };
        assert_eq!(bits(&state.residuals), bits(&streams));
        resume.remove();
        assert!(!path.exists());
    }

    #[test]
    fn another_run_is_refused_with_what_differs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r");
        Resume::open(path.clone(), "model a\nseed 1").unwrap();
        let error = Resume::open(path, "model a\nseed 2").err().expect("refused").to_string();
        assert!(error.contains("seed 1") && error.contains("seed 2") && error.contains("delete"), "{error}");
    }

    #[test]
    fn every_damaged_byte_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let resume = Resume::open(dir.path().join("r"), "job").unwrap();
        resume.save(0, &done(), &[array![[1.0], [2.0]]]).unwrap();
        assert!(resume.load(3).err().unwrap().to_string().contains("residuals-0: damaged"));
        for name in ["block-0", "residuals-0"] {
            let path = dir.path().join("r").join(name);
            let good = fs::read(&path).unwrap();
            for i in 0..good.len() {
                let mut bad = good.clone();
                bad[i] ^= 0x10;
                fs::write(&path, &bad).unwrap();
                assert!(resume.load(1).is_err(), "{name}: byte {i}");
                fs::write(&path, &good[..i]).unwrap();
                assert!(resume.load(1).is_err(), "{name}: cut at {i}");
            }
            fs::write(&path, &good).unwrap();
        }
    }
}
