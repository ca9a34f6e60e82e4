//! Calibration in shards, and conversions from files of statistics: the same bytes however a text was cut, and refusals
//! that say why.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use aurora_quant::checkpoint::{TensorInfo, gguf};
use aurora_quant::gguf::Value;
use common::binary::{good, refused};
use common::fixtures;
use serde_json::Value as Json;
use tempfile::TempDir;

/// Eight leaves of sixteen samples of 64 tokens, the last of six.
const SAMPLING: &str = "--context 64 --samples 118 --seed 3";
const LEAVES: usize = 8;

struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        let dir = TempDir::new().unwrap();
        let mix = Path::new(env!("CARGO_MANIFEST_DIR")).join("calibration-data/mix.txt");
        let text = fs::read_to_string(mix).unwrap();
        let end = (90_000..).find(|&i| text.is_char_boundary(i)).unwrap();
        fs::write(dir.path().join("t.txt"), &text[..end]).unwrap();
        Folder(dir)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// `words` split at blanks; `@` stands for the folder, `%` for the fixtures' models.
    fn words(&self, words: &str) -> Vec<String> {
        let models = fixtures().join("models");
        let (dir, models) = (self.path(""), models.to_str().unwrap().to_owned() + "/");
        words.split(' ').map(|word| word.replace('@', &dir).replace('%', &models)).collect()
    }

    fn good(&self, words: &str) -> std::process::Output {
        let words = self.words(words);
        good(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn refused(&self, words: &str) -> String {
        let words = self.words(words);
        refused(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn calibrate(&self, model: &str, more: &str, out: &str) -> Vec<u8> {
        let more = if more.is_empty() { String::new() } else { format!(" {more}") };
        self.good(&format!("calibrate %{model} --text @t.txt {SAMPLING}{more} -q --force -o @{out}"));
        fs::read(self.path(out)).unwrap()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    fn tensors(&self, name: &str) -> (Vec<u8>, BTreeMap<String, TensorInfo>) {
        let bytes = self.bytes(name);
        let (_, tensors) = gguf::parse(Path::new(name), &bytes).unwrap();
        (bytes, tensors.into_iter().map(|t| (t.name.clone(), t)).collect())
    }
}

/// Dense and a mixture, with X^T X and without, cut in 1, 3 and 7, the parts made by other numbers of threads and named
/// in another order.
#[test]
fn shards_put_together_are_the_file_of_one_run() {
    let dir = Folder::new();
    for (model, options) in [
        ("stories260k", ""),
        ("stories260k", "--hessian --output-matrix"),
        ("tiny-mixtral", ""),
        ("tiny-mixtral", "--hessian"),
    ] {
        let whole = dir.calibrate(model, options, "whole.gguf");
        for count in [1, 3, 7] {
            let mut names = Vec::new();
            for i in 0..count {
                let more = format!("{options} --shard {i}/{count} --threads {}", 1 + i % 3);
                dir.calibrate(model, more.trim(), &format!("part-{i}.gguf"));
                names.insert(i / 2, format!("@part-{i}.gguf"));
            }
            dir.good(&format!("calibrate --merge {} -q --force -o @sum.gguf", names.join(" ")));
            assert!(dir.bytes("sum.gguf") == whole, "{model} {options}, {count} shards");
        }
    }
}

/// What llama.cpp reads of a shard has the names, types and shapes that it has without shards, and adds up.
#[test]
fn entries_of_llama_imatrix_are_in_every_shard() {
    let dir = Folder::new();
    for (model, options) in [("stories260k", "--hessian"), ("tiny-mixtral", "")] {
        dir.calibrate(model, options, "whole.gguf");
        let (bytes, whole) = dir.tensors("whole.gguf");
        let theirs = |name: &str| name.ends_with(".in_sum2") || name.ends_with(".counts");
        assert!(whole.keys().any(|name| theirs(name)));
        let mut sums: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for i in 0..3 {
            dir.calibrate(model, format!("{options} --shard {i}/3").trim(), "part.gguf");
            let (bytes, part) = dir.tensors("part.gguf");
            let (a, b) = (whole.values().filter(|t| theirs(&t.name)), part.values().filter(|t| theirs(&t.name)));
            assert!(a.map(|t| (&t.name, &t.shape, t.spec.name)).eq(b.map(|t| (&t.name, &t.shape, t.spec.name))));
            for t in part.values().filter(|t| theirs(&t.name)) {
                let sum = sums.entry(t.name.clone()).or_insert_with(|| vec![0.0; t.elements().unwrap()]);
                let numbers = bytes[t.range.clone()].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
                sum.iter_mut().zip(numbers).for_each(|(sum, x)| *sum += f64::from(x));
            }
            let nodes = part.keys().any(|name| name.ends_with(".tree_gram"));
            assert_eq!(nodes, options == "--hessian", "{model}");
            assert!(!part.keys().any(|name| name.ends_with(".in_gram")), "it is in the nodes");
        }
        for (name, sum) in sums {
            let numbers = bytes[whole[&name].range.clone()].chunks_exact(4);
            let numbers = numbers.map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())));
            // Each is rounded to f32 once.
            let close = |(a, b): (f64, f64)| (a - b).abs() <= f64::from(f32::EPSILON) * b.abs();
            assert!(sum.into_iter().zip(numbers).all(close), "{name}");
        }
        // A shard is an importance matrix, too.
        dir.good(&format!("convert %{model} --type q4_0 --imatrix @part.gguf -q --force -o @o.gguf"));
    }
}

#[test]
fn shards_that_do_not_belong_together_are_refused() {
    let dir = Folder::new();
    let make = |model: &str, more: &str, out: &str| drop(dir.calibrate(model, more, out));
    make("stories260k", "--shard 0/3", "a");
    make("stories260k", "--shard 1/3", "b");
    make("stories260k", "--shard 2/3", "c");
    make("stories260k", "", "whole");
    let merge = |names: &str| dir.refused(&format!("calibrate --merge {names} -o @o.gguf"));
    let missing = merge("@a @c");
    assert!(missing.contains("shard 1 of 3 is missing"), "{missing}");
    let twice = merge("@a @b @c @b");
    assert!(twice.contains("/b: shard 1 of 3 was already given as") && twice.contains("/b;"), "{twice}");
    let mixed = merge("@a @b @c @whole");
    assert!(mixed.contains("/whole: holds all samples"), "{mixed}");
    let of_another = |more: &str, what: &str| {
        make("stories260k", more, "d");
        let found = merge("@a @b @d");
        assert!(
            found.contains("/d: shard 2 of") && found.contains("of another run") && found.contains(what),
            "{found}"
        );
    };
    of_another("--shard 2/4", "number of shards is 4");
    of_another("--shard 2/3 --hessian", "--hessian is true");
    of_another("--shard 2/3 --output-matrix", "--output-matrix is true");
    dir.good(&format!("calibrate %tiny-mixtral --text @t.txt {SAMPLING} --shard 2/3 -q --force -o @d"));
    assert!(merge("@a @b @d").contains("of another run"), "another model");
    for (other, what) in [
        ("--context 64 --samples 118 --seed 4", "the seed is 4"),
        ("--context 64 --samples 113 --seed 3", "number of samples is 113"),
        ("--context 32 --samples 118 --seed 3", "in a leaf (--context) is 32"),
    ] {
        dir.good(&format!("calibrate %stories260k --text @t.txt {other} --shard 2/3 -q --force -o @d"));
        let found = merge("@a @b @d");
        assert!(found.contains("of another run") && found.contains(what), "{found}");
    }
    let text = fs::read_to_string(dir.path("t.txt")).unwrap().replacen("the", "all", 200);
    fs::write(dir.path("u.txt"), text).unwrap();
    dir.good(&format!("calibrate %stories260k --text @u.txt {SAMPLING} --shard 2/3 -q --force -o @d"));
    let found = merge("@a @b @d");
    assert!(found.contains("checksum of the text's tokens"), "{found}");
    let many = dir.refused(&format!("calibrate %stories260k --text @t.txt {SAMPLING} --shard 0/9 -o @o.gguf"));
    assert!(many.contains(&format!("at most {LEAVES} shards of 16 samples each")), "{many}");
    assert!(!Path::new(&dir.path("o.gguf")).exists());
    // Whatever is changed in a shard, nothing may panic.
    let whole = dir.bytes("b");
    for end in (0..whole.len()).step_by(whole.len() / 40) {
        fs::write(dir.path("d"), &whole[..end]).unwrap();
        merge("@a @d @c");
    }
    let header = whole.windows(12).position(|w| w == b"aurora.shard").unwrap();
    for at in (header..header + 400).step_by(3) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        fs::write(dir.path("d"), bytes).unwrap();
        let words = dir.words("calibrate --merge @a @d @c -q --force -o @o.gguf");
        let done = common::binary::aurora().args(words).output().unwrap();
        assert!(matches!(done.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

/// Sums of shards and of any number of threads give one GGUF; with GPTQ that of a run of the model.
#[test]
fn conversions_from_statistics_need_no_run_and_give_the_same_bytes() {
    let dir = Folder::new();
    for model in ["tiny-llama3", "tiny-mixtral"] {
        dir.calibrate(model, "--hessian --output-matrix", "whole.gguf");
        (0..3).for_each(|i| {
            drop(dir.calibrate(model, &format!("--hessian --output-matrix --shard {i}/3"), &format!("{i}")))
        });
        dir.good("calibrate --merge @2 @0 @1 -q --force -o @sum.gguf");
        let run =
            format!("convert %{model} --method gptq --type q4_0 --text @t.txt {SAMPLING} -q --force -o @run.gguf");
        dir.good(&run);
        for method in ["gptq", "awq --grid 4", "awq+gptq --grid 4"] {
            let make = |stats: &str, threads: usize, out: &str| {
                dir.good(&format!(
                    "convert %{model} --method {method} --type q4_0 --stats @{stats} --threads {threads} -q --force -o @{out}"
                ));
                dir.bytes(out)
            };
            let one = make("whole.gguf", 1, "one.gguf");
            assert!(
                one == make("sum.gguf", 3, "two.gguf") && one == make("whole.gguf", 2, "two.gguf"),
                "{model} {method}"
            );
            if method == "gptq" {
                assert!(one == dir.bytes("run.gguf"), "{model}");
            }
        }
    }
}

/// Every kind of site, judged by X^T X: none gets worse, and the record says how it was judged.
#[test]
fn scales_from_statistics_never_cost() {
    let dir = Folder::new();
    for model in ["tiny-llama3", "tiny-qwen3-moe", "tiny-gpt2", "tiny-phi3", "tiny-olmo2"] {
        dir.calibrate(model, "--hessian", "stats.gguf");
        let done = dir.good(&format!(
            "convert %{model} --method awq --grid 5 --type q4_0 --stats @stats.gguf --json -q --force -o @o.gguf"
        ));
        let record: Json = serde_json::from_slice(&done.stdout).unwrap();
        let mut scaled = 0;
        let done = record["passes"].as_array().unwrap();
        for site in done.iter().filter(|r| r["pass"] == "awq") {
            if site["note"].is_string() {
                continue;
            }
            assert!(site["facts"]["judged_by"].as_str().unwrap().contains("tr(E H E^T)"), "{site}");
            let (before, after) = (site["before"].as_f64().unwrap(), site["after"].as_f64().unwrap());
            assert!(after <= before && before > 0.0, "{model}: {site}");
            scaled += usize::from(after < before);
        }
        assert!(scaled > 0, "{model}: no site gained anything");
        let output = done.iter().filter(|r| r["pass"] == "rtn");
        let notes: Vec<_> =
            output.filter_map(|l| l["note"].as_str()).filter(|n| n.contains("`output_matrix`")).collect();
        assert_eq!(notes.len(), 1, "{model}: the output matrix is left, and that is said");
    }
}

#[test]
fn statistics_that_will_not_do_are_refused() {
    let dir = Folder::new();
    dir.calibrate("stories260k", "", "plain.gguf");
    dir.calibrate("stories260k", "--hessian", "gram.gguf");
    dir.calibrate("stories260k", "--hessian --shard 0/2", "part.gguf");
    let convert = |model: &str, words: &str| dir.refused(&format!("convert %{model} {words} -o @o.gguf"));
    for method in ["gptq", "awq", "awq+gptq"] {
        let found = convert("stories260k", &format!("--method {method} --stats @plain.gguf"));
        assert!(found.contains("blk.0.attn_q.weight") && found.contains("calibrate --hessian"), "{found}");
    }
    assert!(convert("stories260k", "--method gptq --stats @part.gguf").contains("shard 0 of 2"));
    assert!(convert("tiny-llama3", "--method gptq --stats @gram.gguf").contains("another model"));
    assert!(convert("stories260k", "--stats @gram.gguf").contains("--imatrix"));
    assert!(
        convert("stories260k", "--method gptq --propagate quantized --stats @gram.gguf").contains("--propagate float")
    );
    // A number that cannot be, in a triangle.
    let (mut bytes, tensors) = dir.tensors("gram.gguf");
    let at = tensors["blk.1.attn_q.weight.in_gram"].range.start;
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(dir.path("bad.gguf"), &bytes).unwrap();
    let found = convert("stories260k", "--method gptq --stats @bad.gguf");
    assert!(found.contains("blk.1.attn_q.weight.in_gram") && found.contains("NaN"), "{found}");
    assert!(!Path::new(&dir.path("o.gguf")).exists());
}

#[test]
fn a_shard_says_what_it_is() {
    let dir = Folder::new();
    dir.calibrate("stories260k", "--shard 1/3", "part.gguf");
    let bytes = dir.bytes("part.gguf");
    let (metadata, _) = gguf::parse(Path::new("part.gguf"), &bytes).unwrap();
    let number = |key: &str| metadata.get(key).and_then(Value::as_u64);
    // Leaves 2, 3 and 4 of eight.
    assert_eq!(number("imatrix.chunk_count"), Some(48));
    let keys = ["index", "count", "samples", "leaf", "seed"].map(|key| number(&format!("aurora.shard.{key}")));
    assert_eq!(keys, [1, 3, 118, 16, 3].map(Some));
}
