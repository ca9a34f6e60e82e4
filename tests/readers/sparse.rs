//! Mutated sparse files: whatever is still accepted can be read to its end, and what is refused is refused with words.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use aurora_quant::job::{self, Destination};
use aurora_quant::model::{Opened, ParamId};
use aurora_quant::recipe::{PassSpec, Recipe, Setting, TensorType};
use aurora_quant::watch::Unwatched;
use aurora_quant::weights::Weights;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::common::conversion::model;
use crate::common::sparse::Gguf;

/// One good file of each layout and kind of values.
static GOOD: LazyLock<Vec<Gguf>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let made = |(layout, sparsity, kind): (&str, &str, &str)| {
        let mut recipe = Recipe::new(model("stories260k"));
        let mut pass = PassSpec::new("magnitude");
        pass.options.insert("sparsity".to_owned(), Setting::Word(sparsity.to_owned()));
        recipe.passes = vec![pass];
        recipe.file_type = Some(kind.to_owned());
        // Small numbers of everything: most of the file is the part that is looked at.
        recipe.tensor_types = vec![TensorType { pattern: "token_embd".to_owned(), name: "q4_0".to_owned() }];
        recipe.format.options.insert("sparse".to_owned(), Setting::Word(layout.to_owned()));
        let path = dir.path().join("good.gguf");
        let to = Destination { path: Some(path.clone()), replace: true, ..Destination::default() };
        job::prepare(&recipe).unwrap().run(&to, &Unwatched).unwrap();
        Gguf::load(&path)
    };
    [("bitmask", "50%", "q8_0"), ("bitmask", "0.7", "q4_0"), ("2:4", "2:4", "f16")].map(made).into()
});

static PLACE: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

/// A file for each test: they run at the same time.
fn place(test: &str) -> PathBuf {
    PLACE.path().join(test)
}

/// Opens it, and reads all of it if it opens.
fn read(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    let opened = match Opened::open(path) {
        Ok(opened) => opened,
        Err(e) => return assert!(!e.explain().is_empty()),
    };
    let Ok(weights) = Weights::bind(opened.source.as_ref(), &opened.model.graph) else { return };
    for id in (0..opened.model.graph.params.len()).map(ParamId) {
        assert_eq!(weights.whole(id).dim(), weights.dim(id));
    }
}

fn saved(path: &Path, file: &Gguf) -> Vec<u8> {
    file.save(path);
    fs::read(path).unwrap()
}

/// Counts, offsets and lengths that are wrong, or nearly right.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(u64::MAX), any::<u64>(), 0..5000_u64]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn parts_of_matrices(
        which in any::<Index>(),
        edits in prop::collection::vec((any::<Index>(), any::<Index>(), any::<u8>()), 1..4),
    ) {
        let mut file = GOOD[which.index(GOOD.len())].clone();
        let parts: Vec<String> = file.order.iter().filter(|n| !n.ends_with(".weight")).cloned().collect();
        for (part, at, byte) in edits {
            let bytes = file.bytes(&parts[part.index(parts.len())]);
            let at = at.index(bytes.len());
            bytes[at] ^= byte;
        }
        let path = place("parts.gguf");
        read(&path, &saved(&path, &file));
    }

    #[test]
    fn headers(
        which in any::<Index>(),
        edits in prop::collection::vec((any::<Index>(), number()), 1..3),
    ) {
        let good = &GOOD[which.index(GOOD.len())];
        let path = place("headers.gguf");
        let mut bytes = saved(&path, good);
        let start = aurora_quant::gguf::read_header(&path, &bytes).unwrap().data_start as usize;
        // The keys of the vocabulary are most of the header, and no concern here: half of the edits fall behind them.
        for (i, (at, number)) in edits.into_iter().enumerate() {
            let from = if i == 0 { start - (start / 4) } else { 0 };
            let at = from + at.index(start - from);
            let end = bytes.len().min(at + 8);
            bytes[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
        }
        read(&path, &bytes);
    }
}
