//! docs/inputs.md: what is read, what is refused, and in which words. Every row is an input that the binary is run on;
//! whether it is read is part of the row, and what is said about it comes from the run.
//! `UPDATE_DOCS=1 cargo test --test inputs` writes the document.

mod common;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use aurora_quant::gguf::Value;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use common::bad::Bad;
use common::binary::aurora;
use common::checkpoint::Checkpoint;
use common::conversion::{convert, model};
use common::sparse::Gguf;
use common::strangers::{eights, mlx, shards, with_key};
use safetensors::Dtype;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

/// What a conversion of an input ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// Converted, with nothing to say.
    Read,
    /// Converted, with a note.
    Noted,
    /// Refused.
    Refused,
}

use Answer::{Noted, Read, Refused};

/// What the input is, what becomes of it, and how to make it in a directory; it lies at the path that is returned.
type Row = (&'static str, Answer, fn(&Path) -> PathBuf);

/// A fixture model with another config.json.
fn configured(dir: &Path, name: &str, changes: Json) -> PathBuf {
    written(dir, name, &Checkpoint::of(name).with(changes))
}

fn written(dir: &Path, name: &str, checkpoint: &Checkpoint) -> PathBuf {
    let folder = dir.join("model");
    checkpoint.write_as(name, &folder);
    // Notes are about what the row is about.
    changed(&folder, "tokenizer.json", |t| {
        if t["normalizer"]["type"] == "NFC" {
            t["normalizer"] = Json::Null;
        }
    });
    folder
}

/// A JSON file of a folder, edited.
fn changed(folder: &Path, name: &str, edit: impl FnOnce(&mut Json)) {
    let path = folder.join(name);
    let mut json: Json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

/// tiny-qwen2's vocabulary in the files that are older than tokenizer.json.
fn slow(folder: &Path) {
    fs::remove_file(folder.join("tokenizer.json")).unwrap();
    for name in ["vocab.json", "merges.txt"] {
        fs::copy(model("tiny-qwen2").join(name), folder.join(name)).unwrap();
    }
}

/// A fixture model with other files of its tokenizer.
fn tokenized(dir: &Path, name: &str, edit: fn(&Path)) -> PathBuf {
    let folder = written(dir, name, &Checkpoint::of(name));
    edit(&folder);
    folder
}

/// stories260k as written, for files to be changed.
fn stories(dir: &Path) -> PathBuf {
    written(dir, "stories260k", &Checkpoint::of("stories260k"))
}

/// stories260k in three files, and what their index would list.
fn in_three(dir: &Path) -> (PathBuf, serde_json::Map<String, Json>) {
    let folder = dir.join("model");
    let names = [1, 2, 3].map(|n| format!("model-{n:05}-of-00003.safetensors"));
    let checkpoint = Checkpoint::of("stories260k");
    shards(&checkpoint, &folder, &names.each_ref().map(String::as_str));
    let map = checkpoint.tensors.keys().enumerate().map(|(i, name)| (name.clone(), json!(names[i % 3]))).collect();
    (folder, map)
}

fn index(folder: &Path, map: &serde_json::Map<String, Json>) {
    fs::write(folder.join("model.safetensors.index.json"), json!({"weight_map": map}).to_string()).unwrap();
}

/// A GGUF file of stories260k.
fn gguf(dir: &Path, file_type: &str, more: &[&str]) -> PathBuf {
    let out = dir.join("model.gguf");
    convert(&model("stories260k"), file_type, &out, more);
    out
}

const FOLDERS: &[Row] = &[
    ("`config.json`, `model.safetensors`, tokenizer files", Read, stories),
    ("one `.safetensors` file of such a folder", Read, |dir| stories(dir).join("model.safetensors")),
    ("several files with their index", Read, |dir| {
        let (folder, map) = in_three(dir);
        index(&folder, &map);
        folder
    }),
    ("numbered files without an index", Read, |dir| in_three(dir).0),
    ("numbered files, one of them not there", Refused, |dir| {
        let (folder, _) = in_three(dir);
        fs::remove_file(folder.join("model-00002-of-00003.safetensors")).unwrap();
        folder
    }),
    ("an index that lists what the model does not need", Noted, |dir| {
        let (folder, mut map) = in_three(dir);
        map.insert("vision_tower.patch_embed.weight".to_owned(), json!("model-00001-of-00003.safetensors"));
        index(&folder, &map);
        folder
    }),
    ("an index that lists a matrix which no file has", Refused, |dir| {
        let mut less = Checkpoint::of("stories260k");
        less.tensors.remove("model.layers.3.mlp.up_proj.weight").unwrap();
        let folder = dir.join("model");
        shards(&less, &folder, &["part.safetensors"]);
        let all = Checkpoint::of("stories260k").tensors.into_keys().map(|name| (name, json!("part.safetensors")));
        index(&folder, &all.collect());
        folder
    }),
    ("one matrix missing from every block", Refused, |dir| {
        let mut less = Checkpoint::of("stories260k");
        less.tensors.retain(|name, _| !name.ends_with("up_proj.weight"));
        written(dir, "stories260k", &less)
    }),
    ("a clone without Git LFS", Refused, |dir| {
        let folder = stories(dir);
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1100000000\n";
        fs::write(folder.join("model.safetensors"), pointer).unwrap();
        folder
    }),
    ("`pytorch_model.bin`", Refused, |dir| {
        let pickle = dir.join("pytorch_model.bin");
        fs::write(&pickle, b"PK\x03\x04").unwrap();
        pickle
    }),
    ("a folder with `pytorch_model.bin` and no safetensors", Refused, |dir| {
        let folder = stories(dir);
        fs::rename(folder.join("model.safetensors"), folder.join("pytorch_model.bin")).unwrap();
        folder
    }),
    ("a LoRA adapter", Refused, |dir| {
        let adapter = dir.join("model");
        fs::create_dir(&adapter).unwrap();
        fs::write(adapter.join("adapter_model.safetensors"), "").unwrap();
        let settings = json!({"peft_type": "LORA", "base_model_name_or_path": "some/base", "r": 4});
        fs::write(adapter.join("adapter_config.json"), settings.to_string()).unwrap();
        adapter
    }),
    ("a folder that is not there", Refused, |dir| dir.join("model")),
    ("the name of a model on the Hugging Face Hub", Refused, |dir| dir.join("some-owner/some-model")),
    ("an architecture that is not in the table", Refused, |dir| {
        configured(dir, "stories260k", json!({"architectures": ["MambaForCausalLM"], "model_type": "mamba"}))
    }),
];

const GGUF: &[Row] = &[
    ("F32, F16 or BF16", Read, |dir| gguf(dir, "f16", &[])),
    ("several files, whichever of them is named", Read, |dir| {
        gguf(dir, "f16", &["--split-max-size", "200KB"]);
        dir.join("model-00002-of-00003.gguf")
    }),
    ("several files, one of them not there", Refused, |dir| {
        gguf(dir, "f16", &["--split-max-size", "200KB"]);
        fs::remove_file(dir.join("model-00003-of-00003.gguf")).unwrap();
        dir.join("model-00001-of-00003.gguf")
    }),
    ("`vocab_size` that is not the length of the token list", Noted, |dir| {
        let [whole, odd] = ["whole.gguf", "model.gguf"].map(|name| dir.join(name));
        convert(&model("stories260k"), "f16", &whole, &[]);
        with_key(&whole, &odd, "llama.vocab_size", Value::U32(32_000));
        odd
    }),
];

/// bookworm-8m with a second matrix beside its embedding table, which it says are one.
fn with_head(dir: &Path, swap: bool) -> PathBuf {
    let mut checkpoint = Checkpoint::of("bookworm-8m").with(json!({"tie_word_embeddings": true}));
    let mut head = checkpoint.tensors["model.embed_tokens.weight"].clone();
    let row = head.2.len() / head.1[0];
    if swap {
        head.2.rotate_left(row);
    }
    checkpoint.tensors.insert("lm_head.weight".to_owned(), head);
    written(dir, "bookworm-8m", &checkpoint)
}

/// tiny-qwen3 as an embedding model that pools by its last token. `more`: a module after that.
fn embedding(dir: &Path, more: &str) -> PathBuf {
    let folder = written(dir, "tiny-qwen3", &Checkpoint::of("tiny-qwen3"));
    let module = |path: &str, kind: &str| json!({"path": path, "type": format!("sentence_transformers.models.{kind}")});
    let modules = [module("", "Transformer"), module("1_Pooling", "Pooling"), module("2", more)];
    fs::write(folder.join("modules.json"), json!(modules).to_string()).unwrap();
    fs::create_dir(folder.join("1_Pooling")).unwrap();
    fs::write(folder.join("1_Pooling/config.json"), json!({"pooling_mode_lasttoken": true}).to_string()).unwrap();
    folder
}

const CONFIGURATIONS: &[Row] = &[
    ("`tie_word_embeddings`, and an output matrix with the same numbers", Read, |dir| with_head(dir, false)),
    ("`tie_word_embeddings`, and an output matrix with other numbers", Noted, |dir| with_head(dir, true)),
    ("YaRN", Read, |dir| {
        let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64});
        configured(dir, "tiny-qwen2", json!({"rope_scaling": yarn}))
    }),
    ("YaRN with another ramp, Llama", Read, |dir| {
        let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 8});
        configured(dir, "tiny-llama3", json!({"rope_scaling": yarn}))
    }),
    ("YaRN with another ramp, Qwen", Refused, |dir| {
        let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 8});
        configured(dir, "tiny-qwen2", json!({"rope_scaling": yarn}))
    }),
    ("longrope", Read, |dir| {
        let factors = vec![1.5; 16];
        let long = json!({"rope_type": "longrope", "short_factor": factors, "long_factor": factors});
        configured(dir, "tiny-granite", json!({"rope_scaling": long, "original_max_position_embeddings": 64}))
    }),
    ("dynamic NTK", Noted, |dir| {
        configured(dir, "stories260k", json!({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}))
    }),
    ("`rope_scaling` beside `rope_parameters`", Noted, |dir| {
        configured(dir, "tiny-qwen3", json!({"rope_scaling": {"rope_type": "linear", "factor": 4.0}}))
    }),
    ("keys that the class in Transformers does not read", Noted, |dir| {
        configured(dir, "stories260k", json!({"attn_logit_softcapping": 50.0, "qk_layernorm": true}))
    }),
    ("attention to later tokens", Refused, |dir| configured(dir, "stories260k", json!({"is_causal": false}))),
    ("a window that llama.cpp does not have", Noted, |dir| configured(dir, "tiny-mistral", json!({}))),
    ("names without `model.`", Read, |dir| {
        let mut checkpoint = Checkpoint::of("tiny-qwen3");
        let tensors = std::mem::take(&mut checkpoint.tensors).into_iter();
        checkpoint.tensors = tensors.map(|(name, t)| (name.trim_start_matches("model.").to_owned(), t)).collect();
        written(dir, "tiny-qwen3", &checkpoint)
    }),
    ("a class without an output matrix", Noted, |dir| {
        let mut checkpoint = Checkpoint::of("tiny-mistral").with(json!({"architectures": ["MistralModel"]}));
        checkpoint.tensors.remove("lm_head.weight").unwrap();
        checkpoint.config["sliding_window"] = Json::Null;
        written(dir, "tiny-mistral", &checkpoint)
    }),
    ("an embedding model, the last token as pooled", Read, |dir| embedding(dir, "Normalize")),
    ("an embedding model with a module that GGUF cannot hold", Noted, |dir| embedding(dir, "Dense")),
    ("a class with the head of a classifier", Refused, |dir| {
        configured(dir, "tiny-qwen3", json!({"architectures": ["Qwen3ForSequenceClassification"]}))
    }),
    ("the head of a classifier", Refused, |dir| {
        let mut checkpoint = Checkpoint::of("stories260k");
        checkpoint.tensors.insert("score.weight".to_owned(), (Dtype::F32, vec![1, 64], vec![0; 256]));
        written(dir, "stories260k", &checkpoint)
    }),
];

const QUANTISED: &[Row] = &[
    ("GPTQ", Read, |dir| written(dir, "bookworm-8m", &Checkpoint::quantized("gptq-sym-g32"))),
    ("AutoRound, GPTQ or AWQ underneath", Read, |dir| {
        let mut checkpoint = Checkpoint::quantized("gptq-sym-g32");
        checkpoint.config["quantization_config"]["quant_method"] = json!("auto-round");
        checkpoint.config["quantization_config"]["packing_format"] = json!("auto_round:auto_gptq");
        written(dir, "bookworm-8m", &checkpoint)
    }),
    ("AutoRound, its own GGUF packing", Refused, |dir| {
        let mut checkpoint = Checkpoint::quantized("gptq-sym-g32");
        checkpoint.config["quantization_config"]["quant_method"] = json!("auto-round");
        checkpoint.config["quantization_config"]["packing_format"] = json!("auto_round:gguf");
        written(dir, "bookworm-8m", &checkpoint)
    }),
    ("MLX, affine", Read, |dir| written(dir, "tiny-qwen2", &mlx("tiny-qwen2", 4, 64, false)[0])),
    ("MLX, experts stacked", Read, |dir| written(dir, "tiny-qwen3-moe", &mlx("tiny-qwen3-moe", 8, 32, true)[0])),
    ("MLX, other modes", Refused, |dir| {
        let [mut checkpoint, _] = mlx("tiny-qwen2", 4, 64, false);
        checkpoint.config["quantization"]["mode"] = json!("mxfp4");
        written(dir, "tiny-qwen2", &checkpoint)
    }),
    ("FP8, with scales of a cache of keys and values", Noted, |dir| {
        let [mut checkpoint, _] = eights(".weight_scale", Dtype::F32, None);
        checkpoint.config["quantization_config"] = json!({"quant_method": "fp8"});
        written(dir, "tiny-qwen3", &checkpoint)
    }),
    ("FP8 in blocks, scales in E8M0", Noted, |dir| {
        let [mut checkpoint, _] = eights(".weight_scale_inv", Dtype::F8_E8M0, Some(128));
        checkpoint.config["quantization_config"] = json!({"quant_method": "fp8", "weight_block_size": [128, 128]});
        written(dir, "tiny-qwen3", &checkpoint)
    }),
    ("ModelOpt FP8 (`hf_quant_config.json`)", Noted, |dir| {
        let [checkpoint, _] = eights(".weight_scale", Dtype::F32, None);
        let folder = written(dir, "tiny-qwen3", &checkpoint);
        let settings = json!({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}});
        fs::write(folder.join("hf_quant_config.json"), settings.to_string()).unwrap();
        folder
    }),
    ("ModelOpt, other algorithms", Refused, |dir| {
        let [mut checkpoint, _] = eights(".weight_scale", Dtype::F32, None);
        checkpoint.config["quantization_config"] = json!({"quant_method": "modelopt", "quant_algo": "NVFP4"});
        written(dir, "tiny-qwen3", &checkpoint)
    }),
    ("a `quantization_config` over plain floats", Refused, |dir| {
        configured(
            dir,
            "stories260k",
            json!({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}}),
        )
    }),
    ("a quantised GGUF file", Refused, |dir| gguf(dir, "q4_0", &[])),
];

/// stories260k pruned and without its zeros: a file, or a folder in one of the layouts.
fn sparse(dir: &Path, output: &str, more: &[&str]) -> PathBuf {
    let out = dir.join(output);
    let words = ["convert", "-o", output, "--method", "magnitude", "--sparse"];
    let done = aurora().current_dir(dir).args(words).args(more).arg(model("stories260k")).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    out
}

/// A sparse GGUF file with one change.
fn sparse_file(dir: &Path, edit: fn(&mut Gguf)) -> PathBuf {
    let path = sparse(dir, "model.gguf", &["bitmask"]);
    let mut file = Gguf::load(&path);
    edit(&mut file);
    file.save(&path);
    path
}

const QUERY: &str = "blk.0.attn_q";

const SPARSE: &[Row] = &[
    ("a sparse GGUF file (`--sparse bitmask`)", Read, |dir| sparse_file(dir, |_| ())),
    ("compressed-tensors' `sparse-bitmask`", Read, |dir| {
        sparse(dir, "model", &["bitmask", "--format", "compressed-tensors"])
    }),
    ("compressed-tensors' `sparse-24-bitmask`", Read, |dir| {
        sparse(dir, "model", &["2:4", "--sparsity", "2:4", "--format", "compressed-tensors"])
    }),
    ("CSR in torch's names", Read, |dir| sparse(dir, "model", &["csr", "--format", "safetensors"])),
    ("a sparse GGUF file of a later version", Refused, |dir| {
        sparse_file(dir, |file| file.metadata.set("sparse.version", Value::U32(2)))
    }),
    ("one without the mask of a matrix", Refused, |dir| {
        sparse_file(dir, |file| drop(file.tensors.remove(&format!("{QUERY}.mask"))))
    }),
    ("one whose mask has a weight that is not stored", Refused, |dir| {
        sparse_file(dir, |file| file.bytes(&format!("{QUERY}.mask"))[3] = 0xff)
    }),
    ("one whose index falls", Refused, |dir| {
        sparse_file(dir, |file| file.bytes(&format!("{QUERY}.index"))[16..24].fill(0))
    }),
];

const TOKENIZERS: &[Row] = &[
    ("`vocab.json`, `merges.txt` and `added_tokens.json`", Noted, |dir| {
        tokenized(dir, "tiny-qwen2", |folder| {
            slow(folder);
            changed(folder, "tokenizer_config.json", |c| {
                drop(c.as_object_mut().unwrap().remove("added_tokens_decoder"))
            });
            let added = json!({"<|endoftext|>": 601, "<|im_start|>": 602, "<|im_end|>": 603});
            fs::write(folder.join("added_tokens.json"), added.to_string()).unwrap();
        })
    }),
    ("the same without `added_tokens.json`", Refused, |dir| {
        tokenized(dir, "tiny-qwen2", |folder| {
            slow(folder);
            changed(folder, "tokenizer_config.json", |c| {
                drop(c.as_object_mut().unwrap().remove("added_tokens_decoder"))
            });
        })
    }),
    ("byte-level BPE that sets `byte_fallback`", Read, |dir| {
        tokenized(dir, "tiny-llama3", |folder| {
            changed(folder, "tokenizer.json", |t| t["model"]["byte_fallback"] = json!(true));
        })
    }),
    ("a Unigram tokenizer", Refused, |dir| {
        tokenized(dir, "tiny-llama3", |folder| {
            changed(folder, "tokenizer.json", |t| t["model"] = json!({"type": "Unigram", "vocab": [["a", -1.0]]}));
        })
    }),
    ("a pre-tokenizing step that GGUF cannot express", Noted, |dir| {
        tokenized(dir, "stories260k", |folder| {
            let digits = json!({"type": "Digits", "individual_digits": true});
            changed(folder, "tokenizer.json", |t| t["pre_tokenizer"] = digits);
        })
    }),
    ("a normalizer that GGUF cannot express", Noted, |dir| {
        tokenized(dir, "tiny-llama3", |folder| {
            changed(folder, "tokenizer.json", |t| t["normalizer"] = json!({"type": "NFKC"}));
        })
    }),
    ("a token more than the embedding has rows", Noted, |dir| {
        tokenized(dir, "stories260k", |folder| {
            let pad = json!({"id": 512, "content": "<pad>", "special": true, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false});
            changed(folder, "tokenizer.json", |t| t["added_tokens"].as_array_mut().unwrap().push(pad));
        })
    }),
    ("more ends of a text than GGUF has keys for", Noted, |dir| {
        tokenized(dir, "tiny-llama3", |folder| {
            let ends = json!({"eos_token_id": [633, 634, 635, 636]});
            fs::write(folder.join("generation_config.json"), ends.to_string()).unwrap();
        })
    }),
    ("`add_eos_token`, but tokenizer.json puts none", Noted, |dir| {
        tokenized(dir, "stories260k", |folder| {
            changed(folder, "tokenizer_config.json", |c| c["add_eos_token"] = json!(true));
        })
    }),
    ("two chat templates that differ", Noted, |dir| {
        tokenized(dir, "stories260k", |folder| {
            changed(folder, "tokenizer_config.json", |c| c["chat_template"] = json!("{{ messages }}"));
            fs::write(folder.join("chat_template.jinja"), "{{ messages[0].content }}").unwrap();
        })
    }),
    ("only `tekken.json`", Noted, |dir| {
        let mut checkpoint = Checkpoint::of("tiny-llama3");
        for (role, id) in [("bos", 1), ("eos", 2)] {
            checkpoint.config[&format!("{role}_token_id")] = json!(id);
        }
        let folder = written(dir, "tiny-llama3", &checkpoint);
        for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"] {
            let _ = fs::remove_file(folder.join(name));
        }
        let tokens = (0..=255_u8).map(|byte| vec![byte]).chain([b"th".to_vec()]).enumerate();
        let tokens = tokens.map(|(rank, t)| json!({"rank": rank, "token_bytes": BASE64_STANDARD.encode(t)}));
        let special =
            ["<unk>", "<s>", "</s>"].iter().zip(0..).map(|(text, rank)| json!({"rank": rank, "token_str": text}));
        let pattern = aurora_quant::checkpoint::tokenizer::pre_tokenizer_expressions("tekken").unwrap()[0];
        let file = json!({"config": {"pattern": pattern}, "vocab": tokens.collect::<Vec<_>>(),
            "special_tokens": special.collect::<Vec<_>>()});
        fs::write(folder.join("tekken.json"), file.to_string()).unwrap();
        folder
    }),
    ("JSON files with a byte order mark", Read, |dir| {
        tokenized(dir, "stories260k", |folder| {
            for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
                let text = fs::read_to_string(folder.join(name)).unwrap();
                fs::write(folder.join(name), format!("\u{feff}{text}")).unwrap();
            }
        })
    }),
    ("`Infinity` in a JSON file", Refused, |dir| {
        tokenized(dir, "stories260k", |folder| {
            let text = fs::read_to_string(folder.join("tokenizer_config.json")).unwrap();
            fs::write(folder.join("tokenizer_config.json"), text.replacen('{', "{\"model_max_length\": Infinity,", 1))
                .unwrap();
        })
    }),
];

const SECTIONS: &[(&str, &[Row])] = &[
    ("Folders and files", FOLDERS),
    ("Configurations", CONFIGURATIONS),
    ("Tokenizers and chat templates", TOKENIZERS),
    ("GGUF files", GGUF),
    ("Checkpoints that are quantised already", QUANTISED),
    ("Sparse matrices", SPARSE),
];

/// What a conversion of `path` answers and says. Paths are as seen from `dir`.
fn ask(dir: &Path, path: &Path) -> (Answer, String) {
    let path = path.strip_prefix(dir).unwrap();
    let asked = ["--json", "-o", "out.gguf"];
    let done = aurora().current_dir(dir).arg("convert").arg(path).args(asked).output().unwrap();
    let _ = fs::remove_file(dir.join("out.gguf"));
    let said: Json = serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    match (done.status.code(), &said["notes"]) {
        (Some(0), Json::Array(notes)) if notes.is_empty() => (Read, String::new()),
        (Some(0), Json::Array(notes)) => {
            (Noted, notes.iter().map(|note| note.as_str().unwrap()).collect::<Vec<_>>().join("\n"))
        }
        (Some(1), Json::Null) => (Refused, said["error"].as_str().expect("a message").to_owned()),
        other => panic!("{}: {other:?}", path.display()),
    }
}

/// Text in a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;").replace('\n', "<br>")
}

fn row(made: &mut String, what: &str, (answer, said): (Answer, String)) {
    let answer = match answer {
        Read => "read",
        Noted => "read, with a note",
        Refused => "refused",
    };
    writeln!(made, "| {} | {answer} | {} |", cell(what), cell(&said)).unwrap();
}

const HEAD: &str = "| input | answer | what is said |\n|---|---|---|\n";

#[test]
fn the_document_says_what_the_binary_does() {
    let mut made = String::from(
        "# What is read and what is refused\n\n\
         Made by `UPDATE_DOCS=1 cargo test --test inputs`: each row is an input that was made and given to `convert`. \
         A note is in the record and printed after the plan. Every refusal leaves the disk as it was.\n",
    );
    let mut wrong = Vec::new();
    for (title, rows) in SECTIONS {
        write!(made, "\n## {title}\n\n{HEAD}").unwrap();
        for (what, answer, make) in *rows {
            let dir = TempDir::new().unwrap();
            let found = ask(dir.path(), &make(dir.path()));
            if found.0 == Refused && !found.1.contains("; ") {
                wrong.push(format!("{what}: nothing says what to try: {}", found.1));
            }
            if found.0 != *answer {
                wrong.push(format!("{what}: {answer:?} was right, found {found:?}"));
            }
            row(&mut made, what, found);
        }
    }
    write!(
        made,
        "\n## Damaged inputs\n\nEach is a small model with one fault. tests/hostile.rs holds what must be in the words.\n\n{HEAD}"
    )
    .unwrap();
    let bad = Bad::unpack();
    for case in bad.cases.iter().filter(|case| case.kind != "lora") {
        let found = ask(bad.dir.path(), &bad.path(case));
        if found.0 == Refused && !found.1.contains("; ") {
            wrong.push(format!("{}: nothing says what to try: {}", case.id, found.1));
        }
        row(&mut made, &case.fault, found);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/inputs.md");
    if fs::read_to_string(&path).unwrap_or_default() != made {
        assert!(
            std::env::var_os("UPDATE_DOCS").is_some(),
            "docs/inputs.md is out of date; run UPDATE_DOCS=1 cargo test --test inputs"
        );
        fs::write(path, made).unwrap();
    }
}
