//! The executor against golden logits of every fixture, against itself run in other ways, and on what it must refuse.

#[path = "../common/mod.rs"]
mod common;
mod golden;
mod overrides;
mod refusals;
mod same;
mod tap;

use std::path::{Path, PathBuf};
use std::process::Command;

use aurora_quant::Result;
use aurora_quant::checkpoint::{self, Config, TensorSource};
use aurora_quant::model::{Model, describe};
use aurora_quant::runtime::{Attention, CacheType, Engine, RuntimeOptions};
use aurora_quant::weights::Weights;
use aurora_quantizers::matrix;
use common::canonical;
use ndarray::{Array2, ArrayView1};

/// A checkpoint and its model.
struct Opened {
    source: Box<dyn TensorSource>,
    model: Model,
}

/// The options of a test that wants golden logits.
const EXACT: RuntimeOptions =
    RuntimeOptions { context: 64, exact: true, cache: CacheType::F32, attention: Attention::Flash };

impl Opened {
    fn new(path: &Path) -> Opened {
        let source = checkpoint::open(path).unwrap();
        let config = source.config().clone();
        Opened::described(source, &config)
    }

    /// The weights in `source` under another configuration.
    fn described(source: Box<dyn TensorSource>, config: &Config) -> Opened {
        let model = describe(config, &|name| source.find(name).is_some()).unwrap();
        Opened { source, model }
    }

    fn fixture(name: &str) -> Opened {
        Opened::new(&fixture(name))
    }

    /// Calls `f` with an engine.
    fn run<T>(&self, options: RuntimeOptions, f: impl FnOnce(&Engine<'_>) -> T) -> T {
        self.try_run(options, f).unwrap()
    }

    fn try_run<T>(&self, options: RuntimeOptions, f: impl FnOnce(&Engine<'_>) -> T) -> Result<T> {
        let weights = Weights::bind(&*self.source, &self.model.graph).unwrap();
        Ok(f(&Engine::new(&self.model, &weights, options)?))
    }

    /// All logits of `tokens`.
    fn logits(&self, options: RuntimeOptions, tokens: &[u32]) -> Array2<f32> {
        self.run(options, |engine| engine.forward(&mut engine.session(), tokens, 0).unwrap())
    }
}

fn fixture(name: &str) -> PathBuf {
    common::fixtures().join("models").join(name)
}

/// Tokens and logits of a golden file.
struct Golden {
    tokens: Vec<u32>,
    logits: Array2<f32>,
}

impl Golden {
    fn read(path: &Path, key: &str) -> Golden {
        let file = canonical::load_file(path);
        let tokens: Vec<u32> = file["input_ids"].data.iter().map(|&t| t as u32).collect();
        let logits = matrix(&file[key].data, file[key].data.len() / tokens.len()).to_owned();
        Golden { tokens, logits }
    }

    fn of(name: &str) -> Golden {
        Golden::read(&fixture(name).join("golden.safetensors"), "logits")
    }
}

/// Largest difference.
fn apart(a: &Array2<f32>, b: &Array2<f32>) -> f32 {
    assert_eq!(a.dim(), b.dim(), "as many logits");
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m })
}

fn argmax(row: ArrayView1<'_, f32>) -> usize {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
}

/// Writes the fixture as GGUF.
fn convert(model: &Path, file_type: &str, output: &Path) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aurora-quant"));
    let out =
        command.arg("convert").arg(model).args(["--pure", "--type", file_type, "-o"]).arg(output).output().unwrap();
    assert!(out.status.success(), "{}: {}", model.display(), String::from_utf8_lossy(&out.stderr));
}
