//! Pruned models stored without their zeros, through the real binary: what goes in comes out, byte for byte; what is
//! damaged is refused by name.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use aurora_quant::gguf::{self, Value};
use aurora_quant::job::{self, Destination};
use aurora_quant::recipe::{PassSpec, Recipe, Setting};
use aurora_quant::watch::Watch;
use aurora_quant::{Error, Result, checkpoint};
use common::binary::{good, printed, refused};
use common::checkpoint::Checkpoint;
use common::conversion::{leftovers, model};
use common::sparse::Gguf;
use safetensors::Dtype;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

const LAYOUTS: [(&str, &str); 2] = [("bitmask", "50%"), ("2:4", "2:4")];
const TEXT: [&str; 4] = ["--samples", "4", "--context", "64"];

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A conversion, and its record.
fn convert(input: &Path, output: &Path, more: &[&str]) -> Json {
    let words = [&["convert", text(input), "-o", text(output), "--json", "--force"], more].concat();
    serde_json::from_str(&printed(&words)).unwrap()
}

/// Both ways of writing a model: dense, and sparse.
fn both(input: &Path, dir: &Path, more: &[&str], layout: &str) -> (PathBuf, PathBuf, Json) {
    let (dense, sparse) = (dir.join("dense.gguf"), dir.join("sparse.gguf"));
    convert(input, &dense, more);
    let record = convert(input, &sparse, &[more, &["--sparse", layout]].concat());
    (dense, sparse, record)
}

/// A sparse file made dense again is the dense file, and a dense file made sparse is the sparse one: for every layout,
/// every type that can, matrices of experts, and rows that do not fill bytes.
#[test]
fn nothing_is_lost_in_either_direction() {
    let dir = TempDir::new().unwrap();
    let (back, again) = (dir.path().join("back.gguf"), dir.path().join("again.gguf"));
    for name in ["stories260k", "tiny-qwen3-moe", "tiny-gpt2"] {
        for (layout, sparsity) in LAYOUTS {
            for kind in ["f32", "f16", "bf16", "q8_0", "q4_0"] {
                let about = format!("{name} {layout} {kind}");
                // Beside rows of 32 codes of four bits, a number of 64 for each row is too much.
                if (name, layout, kind) == ("tiny-qwen3-moe", "bitmask", "q4_0") {
                    continue;
                }
                let sparsity = if (layout, kind) == ("bitmask", "q4_0") { "75%" } else { sparsity };
                let words = ["--method", "magnitude", "--sparsity", sparsity, "--type", kind, "--pure"];
                let (dense, sparse, record) = both(&model(name), dir.path(), &words, layout);
                convert(&sparse, &back, &[]);
                assert!(fs::read(&dense).unwrap() == fs::read(&back).unwrap(), "{about}: dense again");
                convert(&dense, &again, &["--sparse", layout]);
                assert!(fs::read(&sparse).unwrap() == fs::read(&again).unwrap(), "{about}: sparse again");
                let found = &record["sparse"];
                assert_eq!(found["layout"], layout, "{about}");
                let (stored, weights) = (found["stored"].as_u64().unwrap(), found["weights"].as_u64().unwrap());
                // Of rows of odd numbers of codes, one is a filler; codes that round to zero are left out.
                assert!(stored * 2 <= weights + weights / 16 && stored * 5 > weights, "{about}: {stored} of {weights}");
                assert!(found["bytes"].as_u64() < found["dense_bytes"].as_u64(), "{about}");
                assert_eq!(record["file_bytes"], fs::metadata(&sparse).unwrap().len(), "{about}");
            }
        }
    }
    assert_eq!(leftovers(dir.path()), 0);
}

/// Every method and its codes arrive, and what the runtime computes is the same to the last bit.
#[test]
fn a_sparse_file_is_the_dense_one_to_everyone() {
    let dir = TempDir::new().unwrap();
    for (method, kind, layout, sparsity) in [
        ("wanda", "f16", "bitmask", "60%"),
        ("sparsegpt+gptq", "q4_0", "2:4", "2:4"),
        ("wanda+awq+gptq", "q8_0", "bitmask", "50%"),
    ] {
        for name in ["stories260k", "tiny-qwen3-moe"] {
            let words = [&["--method", method, "--type", kind, "--sparsity", sparsity], &TEXT[..]].concat();
            let (dense, sparse, _) = both(&model(name), dir.path(), &words, layout);
            let eval = |path: &Path| -> Json {
                serde_json::from_str(&printed(&["eval", text(path), "--chunks", "2", "--context", "64", "--json"]))
                    .unwrap()
            };
            let (a, b) = (eval(&dense), eval(&sparse));
            let number = a["perplexity"]["value"].as_f64().unwrap();
            assert!(number.is_finite() && a["perplexity"] == b["perplexity"], "{method} {name}: {a} {b}");
            let words = |path| printed(&["generate", path, "--prompt", "Once", "--tokens", "12", "--temperature", "0"]);
            if name == "stories260k" {
                assert_eq!(words(text(&dense)), words(text(&sparse)), "{method}");
                // It multiplies with what the file has, and makes nothing dense first, but for codes of four bits; rows
                // that these do not divide are F16.
                let read = |path| -> u64 {
                    let bench = printed(&["bench", path, "-p", "0", "-n", "2", "-r", "1", "--json"]);
                    serde_json::from_str::<Json>(&bench).unwrap()["bytes_per_token"].as_u64().unwrap()
                };
                let (a, b) = (read(text(&dense)), read(text(&sparse)));
                assert!(b < a, "{method}: {b} of {a} bytes for a token");
            }
            // Statistics are sums of what the runtime computes.
            let stats = |path: &Path, to: &str| {
                let to = dir.path().join(to);
                good(&[&["calibrate", text(path), "-o", text(&to), "--force"], &TEXT[..]].concat());
                Gguf::load(&to).tensors
            };
            assert!(stats(&dense, "a.gguf") == stats(&sparse, "b.gguf"), "{method} {name}");
            let shown = |path| printed(&["inspect", path, "--tensor", "blk.0.attn_q.weight"]);
            let numbers = |shown: &str| shown.split_once('\n').map(|(_, rest)| rest.to_owned());
            assert_eq!(numbers(&shown(text(&sparse))), numbers(&shown(text(&dense))));
            good(&["inspect", text(&sparse)]);
        }
    }
}

/// Models that have zeros need no method: a checkpoint, and a GGUF file whose codes stay what they are.
#[test]
fn zeros_that_are_there_are_found() {
    let dir = TempDir::new().unwrap();
    let (pruned, sparse, back) =
        (dir.path().join("pruned"), dir.path().join("sparse.gguf"), dir.path().join("back.gguf"));
    convert(&model("stories260k"), &pruned, &["--method", "magnitude", "--format", "safetensors"]);
    let record = convert(&pruned, &sparse, &["--sparse", "bitmask"]);
    assert_eq!((record["type"].as_str(), record["sparse"]["matrices"].as_u64()), (Some("f16"), Some(35)));
    assert_eq!(record["sparse"]["dense"], json!(["token_embd.weight"]));
    // What was pruned by half unevenly has no pattern of fours anywhere.
    let said = refused(&["convert", text(&pruned), "-o", text(&back), "--sparse", "2:4"]);
    assert!(["no matrix has the pattern", "blk.0.", "not zero", "bitmask"].iter().all(|w| said.contains(w)), "{said}");
    let said = refused(&["convert", text(&model("stories260k")), "-o", text(&back), "--sparse", "bitmask"]);
    assert!(["no matrix would become smaller", "100.0 %", "--method"].iter().all(|w| said.contains(w)), "{said}");
    assert!(!back.exists() && leftovers(dir.path()) == 0);
    // A matrix that pruning left whole stays dense beside those with the pattern.
    let words = ["--method", "magnitude", "--sparsity", "2:4", "--prune", "ffn_down=0", "--sparse", "2:4"];
    let record = convert(&model("stories260k"), &sparse, &words);
    let dense: Vec<&str> = record["sparse"]["dense"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
    assert_eq!(dense.len(), 6, "{dense:?}");
    assert!(dense[1..].iter().all(|name| name.contains("ffn_down") || *name == "token_embd.weight"), "{dense:?}");
    // A type that is named is taken, also for a sparse file.
    convert(&sparse, &back, &["--type", "q8_0"]);
    let types = |path: &Path| Gguf::load(path).tensors["blk.0.attn_q.weight"].1;
    assert_eq!(types(&back), 8);
}

/// Folders: compressed-tensors' two layouts, and CSR. They come back as the checkpoint that they were.
#[test]
fn folders_come_back_as_checkpoints() {
    let dir = TempDir::new().unwrap();
    for name in ["stories260k", "tiny-qwen3-moe", "tiny-gpt2"] {
        for (format, layout, sparsity) in [
            ("compressed-tensors", "bitmask", "60%"),
            ("compressed-tensors", "2:4", "2:4"),
            ("safetensors", "csr", "75%"),
        ] {
            // GPT-2's matrices are stored the other way round: fours lie across.
            if (name, layout) == ("tiny-gpt2", "2:4") {
                continue;
            }
            for kind in ["f32", "bf16"] {
                let about = format!("{name} {format} {layout} {kind}");
                let folder = |end: &str| dir.path().join(format!("{name}-{}-{kind}-{end}", layout.replace(':', "")));
                let words = ["--method", "magnitude", "--sparsity", sparsity, "--type", kind];
                let (dense, sparse, back) = (folder("dense"), folder("sparse"), folder("back"));
                convert(&model(name), &dense, &[&words[..], &["--format", "safetensors"]].concat());
                let more = ["--format", format, "--sparse", layout];
                let record = convert(&model(name), &sparse, &[&words[..], &more].concat());
                assert!(record["sparse"]["matrices"].as_u64().unwrap() > 5, "{about}: {}", record["sparse"]);
                convert(&sparse, &back, &["--format", "safetensors"]);
                for file in ["model.safetensors", "config.json"] {
                    assert!(
                        fs::read(dense.join(file)).unwrap() == fs::read(back.join(file)).unwrap(),
                        "{about} {file}"
                    );
                }
                // And as a model to be run.
                let eval = |path: &Path| {
                    let text = printed(&["eval", text(path), "--chunks", "1", "--context", "32", "--json"]);
                    serde_json::from_str::<Json>(&text).unwrap()["perplexity"].clone()
                };
                assert_eq!(eval(&dense), eval(&sparse), "{about}");
            }
        }
    }
    assert_eq!(leftovers(dir.path()), 0);
    // Several shards.
    let sparse = dir.path().join("shards");
    let words =
        ["--method", "magnitude", "--format", "compressed-tensors", "--sparse", "bitmask", "--shard-size", "100kB"];
    convert(&model("stories260k"), &sparse, &words);
    assert!(sparse.join("model.safetensors.index.json").exists());
    good(&["eval", text(&sparse), "--chunks", "1", "--context", "32"]);
}

#[test]
fn what_cannot_be_asked_is_refused() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("out");
    let input = model("stories260k");
    let fails = |more: &[&str], words: &[&str]| {
        let said = refused(&[&["convert", text(&input), "-o", text(&out)], more].concat());
        assert!(words.iter().all(|word| said.contains(word)), "{more:?}: {said}");
        assert!(!out.exists() && leftovers(dir.path()) == 0, "{more:?}");
    };
    let pruned = ["--method", "magnitude", "--sparse"];
    let of = |more: &[&'static str]| [&pruned[..], more].concat();
    fails(&of(&["csr"]), &["--sparse csr", "safetensors", "bitmask"]);
    fails(&of(&["bitmask", "--format", "safetensors"]), &["--sparse bitmask", "gguf", "csr"]);
    fails(&of(&["csr", "--format", "compressed-tensors"]), &["--sparse csr", "safetensors"]);
    fails(&of(&["bitmask", "--format", "gptq"]), &["--sparse", "only for", "compressed-tensors"]);
    fails(&of(&["bitmask", "--split-max-size", "100kB"]), &["--split-max-size", "--sparse"]);
    fails(&of(&["bitmask", "--format", "compressed-tensors", "--bits", "4"]), &["--bits", "--sparse"]);
    fails(&["--format", "compressed-tensors", "--type", "f16"], &["--type", "--sparse"]);
    let other = model("tiny-qwen3-moe");
    let said =
        refused(&[&["convert", text(&other), "--type", "q5_0", "--pure", "--dry-run"], &pruned[..], &["2:4"]].concat());
    assert!(["no matrix", "stored sparse", "q8_0", "--type"].iter().all(|word| said.contains(word)), "{said}");
    // Beforehand, nothing is known of zeros: the plan says so.
    let words = ["convert", text(&input), "--method", "magnitude", "--sparse", "bitmask", "--dry-run"];
    let said = good(&words);
    let said = String::from_utf8_lossy(&said.stderr).into_owned() + &String::from_utf8_lossy(&said.stdout);
    assert!(said.contains("sizes are those of the dense file"), "{said}");
    assert!(said.contains("stories260k-f16-sparse.gguf"), "{said}");
}

/// Stops as soon as some work begins.
struct StopAt(&'static str, AtomicBool);

impl Watch for StopAt {
    fn stage(&self, what: &str) {
        self.1.fetch_or(what.contains(self.0), Ordering::Relaxed);
    }

    fn go_on(&self) -> Result<()> {
        if self.1.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// When the work is stopped while dense rows lie on the disk, nothing new stays, and what was there does.
#[test]
fn stopping_leaves_what_was_there() {
    let dir = TempDir::new().unwrap();
    for (format, layout, output) in
        [("gguf", "bitmask", "x.gguf"), ("compressed-tensors", "bitmask", "x"), ("safetensors", "csr", "y")]
    {
        let path = dir.path().join(output);
        if format == "gguf" {
            fs::write(&path, "precious").unwrap();
        }
        let mut recipe = Recipe::new(model("stories260k"));
        recipe.passes = vec![PassSpec::new("magnitude")];
        recipe.format.name = format.to_owned();
        recipe.format.options.insert("sparse".to_owned(), Setting::Word(layout.to_owned()));
        let job = job::prepare(&recipe).unwrap();
        let to = Destination { path: Some(path.clone()), replace: format == "gguf", ..Destination::default() };
        for stage in ["counting zeros", "packing"] {
            let stopped = job.run(&to, &StopAt(stage, AtomicBool::new(false)));
            assert!(matches!(stopped, Err(Error::Interrupted)), "{format} {stage}");
            let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(left, ["x.gguf"], "{format} {stage}");
            assert_eq!(fs::read(dir.path().join("x.gguf")).unwrap(), b"precious");
        }
    }
    // A file can take its own place: first dense, then sparse, then dense again.
    let path = dir.path().join("x.gguf");
    convert(&model("stories260k"), &path, &["--method", "magnitude"]);
    let dense = fs::read(&path).unwrap();
    convert(&path, &path, &["--sparse", "bitmask"]);
    assert!(fs::read(&path).unwrap().len() < dense.len());
    convert(&path, &path, &[]);
    assert!(fs::read(&path).unwrap() == dense);
}

/// `sparse` is part of what decides the bytes.
#[test]
fn a_recipe_repeats_it() {
    let dir = TempDir::new().unwrap();
    let (recipe, a, b) = (dir.path().join("r.toml"), dir.path().join("a.gguf"), dir.path().join("b.gguf"));
    let words = ["--method", "magnitude", "--sparse", "2:4", "--sparsity", "2:4", "--save-recipe", text(&recipe)];
    convert(&model("stories260k"), &a, &words);
    assert!(fs::read_to_string(&recipe).unwrap().contains("sparse = \"2:4\""));
    good(&["convert", "--recipe", text(&recipe), "-o", text(&b)]);
    assert!(fs::read(&a).unwrap() == fs::read(&b).unwrap());
}

/// One fault each, in a file that is good without.
#[test]
fn damaged_files_are_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let input = model("stories260k");
    let files = LAYOUTS.map(|(layout, sparsity)| {
        let path = dir.path().join(format!("{}.gguf", layout.replace(':', "")));
        let words = ["--method", "magnitude", "--sparsity", sparsity, "--type", "q8_0", "--sparse", layout];
        convert(&input, &path, &words);
        Gguf::load(&path)
    });
    let path = dir.path().join("bad.gguf");
    let fails = |at: usize, edit: &dyn Fn(&mut Gguf), words: &[&str]| {
        let mut file = files[at].clone();
        edit(&mut file);
        file.save(&path);
        for command in ["inspect", "eval", "convert"] {
            let out = common::binary::run(&[command, text(&path)]);
            let said = String::from_utf8_lossy(&out.stderr);
            assert_eq!(out.status.code(), Some(1), "{words:?}: {said}");
            assert!(words.iter().all(|word| said.contains(word)) && said.contains("bad.gguf"), "{words:?}: {said}");
        }
    };
    // Saved again as they are, they open.
    for file in &files {
        file.save(&path);
        good(&["eval", text(&path), "--chunks", "1", "--context", "32"]);
    }
    let (mask, index, values) = ("blk.0.attn_q.mask", "blk.0.attn_q.index", "blk.0.attn_q.values");
    let number = |file: &mut Gguf, at: usize, n: i64| {
        file.bytes(index)[8 * at..8 * (at + 1)].copy_from_slice(&n.to_le_bytes());
    };
    let set = |key: &'static str, value: Value| move |file: &mut Gguf| file.metadata.set(key, value.clone());
    let short = |name: &'static str| {
        move |file: &mut Gguf| {
            let (shape, _, bytes) = file.tensors.get_mut(name).unwrap();
            let row = bytes.len() / shape[0];
            shape[0] -= 1;
            bytes.truncate(bytes.len() - row);
        }
    };
    for part in [mask, index, values, "blk.0.attn_q.scales"] {
        fails(0, &|file| drop(file.tensors.remove(part)), &[part, "missing", "blk.0.attn_q.weight"]);
        fails(0, &short(part), &[part]);
    }
    fails(0, &|file| file.tensors.get_mut(mask).unwrap().1 = 28, &[]);
    fails(0, &|file| file.bytes(mask)[5] ^= 1, &[mask, "row 0", "weights in the mask", "download or convert it again"]);
    fails(0, &|file| number(file, 0, 2), &[index, "row 0"]);
    fails(0, &|file| number(file, 3, 2), &[index, "row 3"]);
    fails(0, &|file| number(file, 3, -2), &[index, "-2"]);
    fails(0, &|file| number(file, 64, i64::MAX), &[values, "needed"]);
    fails(1, &|file| file.bytes(mask)[9] = 0x11, &[mask, "row 1", "0x1", "in order"]);
    fails(1, &|file| drop(file.tensors.remove(mask)), &[mask, "missing", "2:4"]);
    fails(0, &set("sparse.version", Value::U32(2)), &["sparse.version", "version 2", "only 1", "newer"]);
    fails(0, &|file| file.metadata.retain(|key| key != "sparse.version"), &["sparse.version", "missing"]);
    fails(0, &|file| file.metadata.retain(|key| key != "sparse.shapes"), &["sparse.shapes", "missing"]);
    fails(0, &set("sparse.layouts", gguf::string_array(["bitmask"])), &["sparse.layouts", "1 entries"]);
    fails(0, &set("sparse.types", Value::U32(2)), &["sparse.types", "list"]);
    let names = |file: &Gguf| match file.metadata.get("sparse.tensors") {
        Some(Value::Array(list)) => list.values.len(),
        _ => unreachable!("written above"),
    };
    let all = names(&files[0]);
    let many = |word: &str| gguf::string_array(vec![word.to_owned(); all]);
    fails(0, &set("sparse.layouts", many("diagonal")), &["sparse.layouts", "diagonal", "bitmask, 2:4"]);
    fails(0, &set("sparse.types", many("q9_9")), &["sparse.types", "q9_9"]);
    fails(0, &set("sparse.types", many("q6_k")), &["q6_k", "cannot be stored sparse"]);
    fails(0, &set("sparse.tensors", many("blk.0.attn_q.weight")), &["sparse.tensors", "twice"]);
    let dims = |n: u64| gguf::array(gguf::ValueType::U64, vec![Value::U64(n); 4 * all]);
    fails(0, &set("sparse.shapes", dims(u64::MAX)), &["sparse.shapes", "no dimensions"]);
    fails(0, &set("sparse.shapes", dims(1 << 40)), &["sparse.shapes", "no dimensions"]);
    fails(0, &set("sparse.shapes", dims(0)), &["sparse.shapes", "no dimensions"]);
    fails(0, &set("sparse.shapes", dims(32)), &[mask, "shape", "needed"]);
    let plain = |file: &mut Gguf| {
        let name = "blk.0.attn_q.weight".to_owned();
        file.order.push(name.clone());
        file.tensors.insert(name, (vec![64, 64], 8, vec![0; 64 * 2 * 34]));
    };
    fails(0, &plain, &["blk.0.attn_q.weight", "twice"]);
    // An architecture that is not known is named as it is without the prefix.
    let mut file = files[0].clone();
    file.metadata.set("general.architecture", gguf::string("sparse-nothing"));
    file.save(&path);
    let said = refused(&["eval", text(&path)]);
    assert!(said.contains("\"nothing\"") && said.contains("bad.gguf"), "{said}");
}

/// One fault each, in folders that are good without.
#[test]
fn damaged_folders_are_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let made = |format: &str, layout: &str, sparsity: &str| {
        let folder = dir.path().join(layout.replace(':', ""));
        let words = ["--method", "magnitude", "--sparsity", sparsity, "--format", format, "--sparse", layout];
        convert(&model("stories260k"), &folder, &words);
        let bytes = fs::read(folder.join("model.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let tensors =
            file.tensors().into_iter().map(|(name, t)| (name, (t.dtype(), t.shape().to_vec(), t.data().to_vec())));
        let config = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
        Checkpoint { tensors: tensors.collect(), config }
    };
    let sources = [
        made("compressed-tensors", "bitmask", "50%"),
        made("compressed-tensors", "2:4", "2:4"),
        made("safetensors", "csr", "50%"),
    ];
    let folder = dir.path().join("bad");
    let fails = |at: usize, edit: &dyn Fn(&mut Checkpoint), words: &[&str]| {
        let mut checkpoint = sources[at].clone();
        edit(&mut checkpoint);
        checkpoint.write_as("stories260k", &folder);
        let said = refused(&["convert", text(&folder), "--dry-run"]);
        assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
    };
    for checkpoint in &sources {
        checkpoint.write_as("stories260k", &folder);
        good(&["convert", text(&folder), "--dry-run"]);
        assert!(checkpoint::open(&folder).unwrap().find("model.layers.0.self_attn.q_proj.weight").is_some());
    }
    let q = "model.layers.0.self_attn.q_proj";
    let name = |end: &str| format!("{q}{end}");
    let bytes = |c: &mut Checkpoint, end: &str, at: usize, new: &[u8]| {
        c.tensors.get_mut(&name(end)).unwrap().2[at..at + new.len()].copy_from_slice(new);
    };
    for (at, ends) in [
        (0, &[".bitmask", ".row_offsets", ".shape"][..]),
        (1, &[".bitmask", ".shape"]),
        (2, &[".weight.col_indices", ".weight.values", ".weight.shape"]),
    ] {
        for end in ends {
            fails(at, &|c| drop(c.tensors.remove(&name(end))), &[&name(end), "missing", "q_proj.weight"]);
        }
    }
    fails(0, &|c| bytes(c, ".bitmask", 3, &[0]), &[".bitmask", "row 0", "weights in the mask"]);
    fails(0, &|c| bytes(c, ".row_offsets", 8, &(-1_i64).to_le_bytes()), &["q_proj", "row 1"]);
    fails(0, &|c| bytes(c, ".shape", 0, &7_i64.to_le_bytes()), &["q_proj.bitmask", "shape", "needed [7, 8]"]);
    fails(0, &|c| bytes(c, ".shape", 0, &(-7_i64).to_le_bytes()), &["q_proj.shape", "-7"]);
    fails(1, &|c| bytes(c, ".bitmask", 0, &[0xff]), &[".bitmask", "row 0"]);
    let crow = ".weight.crow_indices";
    fails(2, &|c| bytes(c, crow, 0, &1_i32.to_le_bytes()), &[crow, "row 0", "needed 0"]);
    fails(2, &|c| bytes(c, crow, 8, &(-3_i32).to_le_bytes()), &[crow, "negative"]);
    fails(2, &|c| bytes(c, crow, 8, &1_i32.to_le_bytes()), &[crow, "row 2"]);
    fails(2, &|c| bytes(c, crow, 256, &9_i32.to_le_bytes()), &[crow, "row 64", "number of values"]);
    let columns = ".weight.col_indices";
    fails(2, &|c| bytes(c, columns, 0, &64_i32.to_le_bytes()), &[columns, "row 0", "column 64", "below 64"]);
    fails(2, &|c| bytes(c, columns, 4, &0_i32.to_le_bytes()), &[columns, "row 0", "go up"]);
    fails(2, &|c| bytes(c, columns, 0, &(-1_i32).to_le_bytes()), &[columns, "negative"]);
    let shorter = |c: &mut Checkpoint| {
        let (_, shape, bytes) = c.tensors.get_mut(&name(".weight.values")).unwrap();
        shape[0] -= 1;
        bytes.truncate(bytes.len() - 4);
    };
    fails(2, &shorter, &[".weight.values", "one for each column"]);
    let other = |c: &mut Checkpoint| c.tensors.get_mut(&name(columns)).unwrap().0 = Dtype::F32;
    fails(2, &other, &[columns, "f32", "i32 or i64"]);
    let codes = |c: &mut Checkpoint| c.config["quantization_config"]["config_groups"] = json!({"group_0": {}});
    fails(0, &codes, &["sparse storage of codes"]);
}
