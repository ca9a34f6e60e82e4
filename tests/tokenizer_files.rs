//! Tokenizers whose files say different things, or things that GGUF cannot: what is written, and what is said about it.
//! The ids are transformers' and llama.cpp's of the same input.

mod common;

use aurora_quant::checkpoint::config::HfConfig;
use aurora_quant::checkpoint::tokenizer;
use aurora_quant::gguf::{Metadata, Value};
use aurora_quant::text::{ChatTemplate, Conversation, Special, Tokenizer};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use common::tokenizer::{Copy, kind, role, texts, written};
use serde_json::{Value as Json, json};

const CONTROL: i64 = 3;
const USER: i64 = 4;
const PARSED: Special = Special { add: true, parse: true };

fn mentions(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

/// The note that has all `words`.
fn noted(notes: &[String], words: &[&str]) {
    assert!(notes.iter().any(|n| words.iter().all(|w| n.contains(w))), "{words:?} are in none of {notes:#?}");
}

fn directory(copy: &Copy) -> Tokenizer {
    // No tensor is read for a tokenizer, but a checkpoint has some.
    std::fs::copy(
        common::fixtures().join("models/stories260k/model.safetensors"),
        copy.path().join("model.safetensors"),
    )
    .unwrap();
    Tokenizer::open(aurora_quant::checkpoint::open(copy.path()).unwrap().as_ref()).unwrap()
}

const CHAT: &str = "<|im_start|>user hi<|im_end|>";
const CHAT_IDS: [u32; 6] = [602, 359, 265, 293, 72, 603];

fn slow_qwen() -> Copy {
    let added = r#"{"<|endoftext|>": 601, "<|im_start|>": 602, "<|im_end|>": 603, "<tool_call>": 630}"#;
    Copy::of("tiny-qwen2").without("tokenizer.json").with("added_tokens.json", added)
}

#[test]
fn added_tokens_of_slow_tokenizers_are_not_lost() {
    let copy = slow_qwen().forgetting(&["added_tokens_decoder"]);
    let (out, notes) = copy.noted(640).unwrap();
    let all = texts(&out);
    for (id, text, wanted) in [
        (601, "<|endoftext|>", CONTROL),
        (602, "<|im_start|>", CONTROL),
        (603, "<|im_end|>", CONTROL),
        (630, "<tool_call>", USER),
    ] {
        assert_eq!((all[id].as_str(), kind(&out, id)), (text, wanted));
    }
    assert_eq!((role(&out, "eos"), role(&out, "padding")), (Some(603), Some(601)));
    noted(&notes, &["<tool_call>", "630", "604"]);
    for tokenizer in [written(&out), directory(&copy)] {
        assert_eq!(tokenizer.encode(CHAT, PARSED).unwrap(), CHAT_IDS);
        assert_eq!(tokenizer.encode("<tool_call>", PARSED).unwrap(), [630]);
    }
    // The list in tokenizer_config.json will do too; what only the old file has is used and told.
    let (out, notes) = slow_qwen().noted(640).unwrap();
    assert_eq!(texts(&out)[603], "<|im_end|>");
    assert_eq!(texts(&out)[630], "<tool_call>");
    noted(&notes, &["only added_tokens.json has \"<tool_call>\""]);
}

#[test]
fn roles_of_old_repositories_are_read() {
    let copy = slow_qwen().forgetting(&["added_tokens_decoder", "eos_token", "pad_token", "additional_special_tokens"]);
    let map =
        r#"{"eos_token": {"content": "<|im_end|>", "lstrip": false}, "additional_special_tokens": ["<|im_start|>"]}"#;
    let out = copy.with("special_tokens_map.json", map).read(640).unwrap();
    assert_eq!(role(&out, "eos"), Some(603));
    assert_eq!([601, 602, 603].map(|id| kind(&out, id)), [CONTROL; 3]);
}

#[test]
fn tokens_beside_tokenizer_json_are_read() {
    let entry = |content: &str, special: bool| {
        json!({"content": content, "lstrip": false, "normalized": false, "rstrip": false, "single_word": false,
            "special": special})
    };
    let copy = Copy::of("tiny-qwen2").edited("tokenizer_config.json", |c| {
        c["added_tokens_decoder"]["604"] = entry("<|new|>", true);
        c["added_tokens_decoder"]["602"] = entry("<|other|>", true);
    });
    let (out, notes) = copy.noted(640).unwrap();
    assert_eq!([&texts(&out)[602], &texts(&out)[604]], ["<|other|>", "<|new|>"]);
    noted(&notes, &["602", "<|im_start|>", "<|other|>", "believed"]);
    for tokenizer in [written(&out), directory(&copy)] {
        assert_eq!(tokenizer.encode("<|new|><|other|>", PARSED).unwrap(), [604, 602]);
    }
    // A text that two rows would have makes a file that llama.cpp does not open.
    let copy = Copy::of("tiny-qwen2").edited("tokenizer_config.json", |c| {
        c["added_tokens_decoder"]["610"] = entry("<|im_start|>", true);
        c["added_tokens_decoder"]["611"] = entry("a", false);
    });
    let (out, notes) = copy.noted(640).unwrap();
    let all = texts(&out);
    assert_eq!(all.iter().filter(|t| *t == "<|im_start|>").count(), 1);
    let row = all.iter().position(|t| t == "a").unwrap();
    assert_eq!((all.iter().filter(|t| *t == "a").count(), kind(&out, row)), (1, USER));
    noted(&notes, &["\"a\" is token", "611 has no name"]);
    noted(&notes, &["<|im_start|>", "610", "602"]);
}

#[test]
fn added_tokens_beside_tokenizer_model_are_read() {
    let copy = Copy::of("tiny-mistral").edited("tokenizer.json", |t| {
        let tokens = t["added_tokens"].as_array_mut().unwrap();
        tokens.push(json!({"id": 512, "content": "<|turn|>", "special": true}));
        tokens.push(json!({"id": 513, "content": "<note>", "special": false}));
    });
    let out = copy.read(520).unwrap();
    assert_eq!([&texts(&out)[512], &texts(&out)[513]], ["<|turn|>", "<note>"]);
    assert_eq!([kind(&out, 512), kind(&out, 513)], [CONTROL, USER]);
}

/// A tokenizer.model of another model, left behind in the folder.
#[test]
fn tokenizer_json_is_believed_against_tokenizer_model() {
    let leftover = std::fs::read(common::plain_fixtures().join("models/stories260k/tokenizer.model")).unwrap();
    let copy = Copy::of("tiny-mistral").with("tokenizer.model", leftover);
    let (out, notes) = copy.noted(512).unwrap();
    let wanted = Copy::of("tiny-mistral").without("tokenizer.model").read(512).unwrap();
    assert_eq!(texts(&out), texts(&wanted));
    noted(&notes, &["tokenizer.json", "tokenizer.model", "believed"]);
}

#[test]
fn a_role_needs_a_name() {
    let plain =
        || slow_qwen().without("added_tokens.json").forgetting(&["added_tokens_decoder", "pad_token", "eos_token"]);
    let copy = plain().without("special_tokens_map.json").edited("config.json", |c| c["bos_token_id"] = json!(null));
    mentions(
        &copy.error(640),
        &["config.json", "eos_token_id", "token 603 has no name", "added_tokens.json", "copy the file"],
    );
    for (key, id) in [("pad_token_id", 610), ("bos_token_id", 611)] {
        let error =
            Copy::of("tiny-qwen2").forgetting(&["pad_token"]).edited("config.json", |c| c[key] = json!(id)).error(640);
        mentions(&error, &["config.json", key, "has no name"]);
    }
    let listed = Copy::of("tiny-qwen2").with("generation_config.json", r#"{"eos_token_id": [603, 620]}"#);
    mentions(&listed.error(640), &["generation_config.json", "eos_token_id", "620"]);
}

#[test]
fn byte_level_tokenizers_may_set_byte_fallback() {
    let copy = Copy::of("tiny-llama-bias").edited("tokenizer.json", |t| t["model"]["byte_fallback"] = json!(true));
    let (out, plain) = (copy.read(548).unwrap(), Copy::of("tiny-llama-bias").read(548).unwrap());
    assert_eq!(out.get("tokenizer.ggml.model").and_then(Value::as_str), Some("gpt2"));
    let all = |m: &Metadata| m.iter().map(|(k, v)| format!("{k} {v:?}")).collect::<Vec<_>>();
    assert_eq!(all(&out), all(&plain));
}

#[test]
fn steps_that_gguf_cannot_say_are_named() {
    let edited = |model: &str, key: &str, step: serde_json::Value| {
        let copy = Copy::of(model).edited("tokenizer.json", |t| t[key] = step);
        copy.noted(640).unwrap_or_else(|e| panic!("{e}")).1
    };
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    noted(&Copy::of("tiny-qwen2").noted(640).unwrap().1, &["normalizer NFC"]);
    noted(&slow_qwen().noted(640).unwrap().1, &["normalizer NFC"]);
    let two = json!({"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]});
    noted(&edited("tiny-llama3", "normalizer", two), &["normalizer NFKC, Lowercase"]);
    let strip =
        json!({"type": "Sequence", "decoders": [bytes, {"type": "Strip", "content": "x", "start": 0, "stop": 1}]});
    noted(&edited("tiny-llama3", "decoder", strip), &["decoder Strip"]);
    assert!(edited("tiny-llama3", "normalizer", json!(null)).is_empty());
    let digits = json!({"type": "Digits", "individual_digits": true});
    noted(&edited("stories260k", "pre_tokenizer", digits), &["splits text by Digits"]);
    noted(&edited("tiny-mixtral", "normalizer", json!({"type": "NFKC"})), &["normalizer NFKC"]);
    noted(&Copy::of("tiny-mistral").noted(512).unwrap().1, &["first word only"]);
    for quiet in ["stories260k", "tiny-gemma2", "tiny-mixtral", "tiny-gpt2", "tiny-llama3"] {
        assert_eq!(Copy::of(quiet).noted(640).unwrap().1, Vec::<String>::new(), "{quiet}");
    }
    let first = Copy::of("tiny-llama3").edited("tokenizer.json", |t| t["added_tokens"][4]["rstrip"] = json!(true));
    let first = first.forgetting(&["added_tokens_decoder"]);
    noted(&first.noted(640).unwrap().1, &["swallows the white space", "<|start_header_id|>"]);
    let suffix = Copy::of("tiny-llama3").edited("tokenizer.json", |t| t["model"]["end_of_word_suffix"] = json!("</w>"));
    mentions(&suffix.error(640), &["end_of_word_suffix", "</w>", "cannot"]);
    let whole = Copy::of("tiny-qwen2").edited("tokenizer.json", |t| {
        t["model"]["ignore_merges"] = json!(true);
        t["model"]["merges"].as_array_mut().unwrap().pop();
    });
    noted(&whole.noted(640).unwrap().1, &["whole words"]);
    let holes = Copy::of("stories260k").without("tokenizer.model").edited("tokenizer.json", |t| {
        t["model"]["vocab"].as_object_mut().unwrap().shift_remove("<0xE2>");
    });
    noted(&holes.noted(512).unwrap().1, &["no token for 1 of the 256 bytes", "<0xE2>"]);
}

/// What is put around a text, by the ids that transformers 5.24 gave for the same folders.
#[test]
fn tokenizer_json_decides_what_is_put_around_a_text() {
    let special = |text: &str| json!({"SpecialToken": {"id": text, "type_id": 0}});
    let around = |first: Option<&str>, last: Option<&str>| {
        let text = json!({"Sequence": {"id": "A", "type_id": 0}});
        let single: Vec<Json> = first.map(special).into_iter().chain([text]).chain(last.map(special)).collect();
        let tokens = json!({"<|begin_of_text|>": {"id": "<|begin_of_text|>", "ids": [632],
            "tokens": ["<|begin_of_text|>"]}, "<|end_of_text|>": {"id": "<|end_of_text|>", "ids": [633],
            "tokens": ["<|end_of_text|>"]}});
        let second = json!({"Sequence": {"id": "B", "type_id": 1}});
        let pair: Vec<Json> = single.iter().cloned().chain([second]).collect();
        json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens})
    };
    let (bos, eos) = ("<|begin_of_text|>", "<|end_of_text|>");
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true});
    for (processor, (begins, ends)) in [
        (Json::Null, (false, false)),
        (byte_level, (false, false)),
        (around(None, None), (false, false)),
        (around(Some(bos), None), (true, false)),
        (around(Some(bos), Some(eos)), (true, true)),
    ] {
        for asked in [None, Some(true), Some(false)] {
            let copy = Copy::of("tiny-llama3")
                .edited("tokenizer.json", |t| t["post_processor"] = processor.clone())
                .forgetting(&["add_bos_token", "add_eos_token"])
                .edited("tokenizer_config.json", |c| {
                    for key in ["add_bos_token", "add_eos_token"] {
                        if let Some(asked) = asked {
                            c[key] = json!(asked);
                        }
                    }
                });
            let (out, notes) = copy.noted(640).unwrap();
            let mut wanted = if begins { vec![632] } else { Vec::new() };
            wanted.extend([83, 257, 376, 64]);
            wanted.extend(ends.then_some(633));
            for tokenizer in [written(&out), directory(&copy)] {
                assert_eq!(tokenizer.encode("the sea", Special::TEXT).unwrap(), wanted, "{processor}: {asked:?}");
            }
            let add = |role: &str| out.get(&format!("tokenizer.ggml.add_{role}_token"));
            assert!(add("bos").is_none_or(|add| *add == Value::Bool(begins)), "{processor}: {asked:?}");
            assert_eq!(add("eos").is_some_and(|add| *add == Value::Bool(true)), ends, "{processor}: {asked:?}");
            if asked == Some(true) && !ends && processor["type"] != "ByteLevel" {
                noted(&notes, &["add_eos_token", "as transformers does"]);
            }
        }
    }
    let prefix = Copy::of("tiny-qwen2").edited("tokenizer_config.json", |c| c["add_prefix_space"] = json!(true));
    noted(&prefix.noted(640).unwrap().1, &["add_prefix_space", "no space before a text"]);
    let rebuilt = Copy::of("stories260k").edited("tokenizer_config.json", |c| c["legacy"] = json!(false));
    noted(&rebuilt.noted(512).unwrap().1, &["transformers 5", "no space behind special tokens"]);
}

fn ends(tokenizer: &Tokenizer) -> Vec<u32> {
    tokenizer.eos().to_vec()
}

#[test]
fn further_ends_get_the_keys_there_are() {
    let list = |copy: Copy, ids: &str| copy.with("generation_config.json", format!("{{\"eos_token_id\": {ids}}}"));
    // 638 and 639 are <|eom_id|> and <|eot_id|>, which llama.cpp knows by their spelling.
    let copy = list(Copy::of("tiny-llama3"), "[633, 634, 635]");
    let (out, notes) = copy.noted(640).unwrap();
    assert_eq!(["eos", "eot", "eom"].map(|r| role(&out, r)), [Some(633), Some(634), Some(635)]);
    assert_eq!(notes, Vec::<String>::new());
    let wanted = vec![633, 634, 635, 638, 639];
    assert_eq!((ends(&written(&out)), ends(&directory(&copy))), (wanted.clone(), wanted));
    // What llama.cpp finds by itself needs no key.
    let out = list(Copy::of("tiny-llama3"), "[633, 638, 639]").read(640).unwrap();
    assert_eq!(["eot", "eom"].map(|r| role(&out, r)), [None, None]);
    // A key that llama.cpp would fill by itself is the last to be taken.
    let out = list(Copy::of("tiny-qwen2"), "[603, 5]").read(640).unwrap();
    assert_eq!(["eos", "eot", "eom"].map(|r| role(&out, r)), [Some(603), None, Some(5)]);
    // Too many for GGUF's keys.
    let copy = list(Copy::of("tiny-llama3"), "[633, 634, 635, 636, 637]");
    let (out, notes) = copy.noted(640).unwrap();
    noted(&notes, &["token 636 (\"<|start_header_id|>\") and 1 more", "llama.cpp"]);
    assert_eq!((ends(&written(&out)), ends(&directory(&copy))), ((633..640).collect(), (633..640).collect()));
    // The tokenizer and the model's configuration may each know one.
    let copy = Copy::of("tiny-llama3").edited("config.json", |c| c["eos_token_id"] = json!(635));
    let out = copy.read(640).unwrap();
    assert_eq!(["eos", "eot"].map(|r| role(&out, r)), [Some(633), Some(635)]);
    // Ids without a row are generated by nobody.
    assert_eq!(role(&list(Copy::of("tiny-llama3"), "[633, 9999]").read(640).unwrap(), "eot"), None);
    noted(
        &Copy::of("tiny-llama3").with("generation_config.json", "{").noted(640).unwrap().1,
        &["nothing of it is used"],
    );
}

#[test]
fn tokens_without_rows_are_left_out() {
    let more = |copy: Copy| {
        let pad = json!({"id": 512, "content": "<pad>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true});
        copy.edited("tokenizer.json", |t| t["added_tokens"].as_array_mut().unwrap().push(pad))
    };
    for copy in [more(Copy::of("tiny-mistral").without("tokenizer.model")), more(Copy::of("tiny-mistral"))] {
        let (out, notes) = copy.noted(512).unwrap();
        assert_eq!(texts(&out).len(), 512);
        noted(&notes, &["1 token(s) from id 512 left out: the embedding has 512 rows"]);
        // As the pad token it is left out too; as the end of text, or in a template, it is needed.
        let pad = copy.edited("tokenizer_config.json", |c| c["pad_token"] = json!("<pad>"));
        noted(&pad.noted(512).unwrap().1, &["pad token id 512 is outside"]);
        let eos = pad.edited("tokenizer_config.json", |c| c["eos_token"] = json!("<pad>"));
        let eos = eos.edited("config.json", |c| c["eos_token_id"] = json!(512)).without("generation_config.json");
        mentions(&eos.error(512), &["eos token id 512", "resized"]);
    }
    let template = more(Copy::of("tiny-mistral")).with("chat_template.jinja", "{{ '<pad>' }}");
    mentions(&template.error(512), &["chat template writes \"<pad>\"", "512 rows"]);
    // An id that nobody would count to is that of another model's tokenizer.
    let gap = Copy::of("tiny-mistral").without("tokenizer.model").edited("tokenizer.json", |t| {
        t["added_tokens"].as_array_mut().unwrap().push(json!({"id": 513, "content": "<pad>", "special": true}));
    });
    mentions(&gap.error(512), &["tokenizer.json", "token id 513 (\"<pad>\")", "512 (rows of the embedding)"]);
    assert_eq!(texts(&gap.read(514).unwrap())[513], "<pad>");
    // Tokens of the vocabulary itself, and what is merged to them.
    let (out, notes) = Copy::of("tiny-gpt2")
        .edited("config.json", |c| {
            c["bos_token_id"] = json!(null);
            c["eos_token_id"] = json!(0);
        })
        .forgetting(&["bos_token", "eos_token", "unk_token", "added_tokens_decoder"])
        .without("special_tokens_map.json")
        .noted(500)
        .unwrap();
    noted(&notes, &["21 token(s) from id 500"]);
    let ids = written(&out).encode("hello and more of the same", Special::TEXT).unwrap();
    assert!(ids.iter().all(|&id| id < 500));
}

#[test]
fn files_may_begin_with_a_mark() {
    let marked = |copy: Copy, name: &str| {
        let text = std::fs::read(copy.path().join(name)).unwrap();
        copy.with(name, [&b"\xef\xbb\xbf"[..], &text].concat())
    };
    let names = ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"];
    let copy = names.iter().fold(Copy::of("tiny-qwen2"), |copy, name| marked(copy, name));
    let tokenizer = directory(&copy);
    assert_eq!(tokenizer.encode(CHAT, PARSED).unwrap(), CHAT_IDS);
    // config.json is read by the helper without a mark.
    let config = HfConfig::open(copy.path()).unwrap();
    let mut out = Metadata::new();
    tokenizer::metadata(copy.path(), &config, 640, None, &mut out).unwrap();
    assert_eq!(role(&out, "eos"), Some(603));
    let copy = Copy::of("tiny-qwen2");
    let text = std::fs::read_to_string(copy.path().join("tokenizer_config.json")).unwrap();
    let bad = text.replacen("\"model_max_length\": 512", "\"model_max_length\": Infinity", 1);
    assert_ne!(bad, text);
    let error = copy.with("tokenizer_config.json", bad).error(640);
    mentions(&error, &["tokenizer_config.json", "line", "Infinity", "write a number or null"]);
}

const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|",
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// tiny-llama3's vocabulary as Mistral's tools store one: bytes first, in their order, then what is made of them.
fn tekken() -> Json {
    let tokenizer = common::tokenizer::json(&common::plain_fixtures().join("models/tiny-llama3/tokenizer.json"));
    let mut letters: Vec<char> = (0..=255).filter_map(char::from_u32).collect();
    let odd: Vec<usize> = (0..256).filter(|b| !matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)).collect();
    for (i, byte) in odd.into_iter().enumerate() {
        letters[byte] = char::from_u32(0x100 + i as u32).unwrap();
    }
    let bytes =
        |text: &str| -> Vec<u8> { text.chars().map(|c| letters.iter().position(|&l| l == c).unwrap() as u8).collect() };
    let vocabulary = tokenizer["model"]["vocab"].as_object().unwrap();
    let mut texts: Vec<(&String, u64)> = vocabulary.iter().map(|(text, id)| (text, id.as_u64().unwrap())).collect();
    texts.sort_by_key(|t| t.1);
    let longer = texts.iter().map(|(text, _)| bytes(text)).filter(|b| b.len() > 1);
    let all: Vec<Vec<u8>> = (0..=255).map(|b| vec![b]).chain(longer).collect();
    let coded = |bytes: &Vec<u8>| BASE64_STANDARD.encode(bytes);
    let entry = |(rank, bytes)| json!({"rank": rank, "token_bytes": coded(bytes), "token_str": null});
    let special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<pad>"].iter().enumerate();
    json!({
        // Two tokens more than the model has, and two special tokens without a text.
        "config": {"pattern": TEKKEN, "num_vocab_tokens": all.len(), "default_vocab_size": 8 + all.len() - 2,
            "default_num_special_tokens": 8, "version": "v11"},
        "vocab": all.iter().enumerate().map(entry).collect::<Vec<_>>(),
        "special_tokens": special.map(|(rank, text)| json!({"rank": rank, "token_str": text, "is_control": true}))
            .collect::<Vec<_>>(),
    })
}

fn mistral(file: &Json) -> Copy {
    ["tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"]
        .into_iter()
        .fold(Copy::of("tiny-mistral"), Copy::without)
        .with("tekken.json", file.to_string())
        .edited("config.json", |c| c["vocab_size"] = json!(640))
}

/// Ids of transformers' converter for the same file.
#[test]
fn tekken_json_is_enough() {
    let copy = mistral(&tekken());
    let (out, notes) = copy.noted(640).unwrap();
    let text = |key: &str| out.get(&format!("tokenizer.ggml.{key}")).and_then(Value::as_str);
    assert_eq!((text("model"), text("pre")), (Some("gpt2"), Some("tekken")));
    let all = texts(&out);
    assert_eq!(
        [&all[3], &all[7], &all[8 + 65], &all[637], &all[638]],
        ["[INST]", "<SPECIAL_7>", "A", "ĠIt", "[PAD638]"]
    );
    assert_eq!(["bos", "eos", "padding", "unknown"].map(|r| role(&out, r)), [Some(1), Some(2), Some(5), Some(0)]);
    noted(&notes, &["tekken.json", "without a chat template"]);
    for tokenizer in [written(&out), directory(&copy)] {
        for (text, ids) in [
            (
                "[INST]Hello there, 1234 tokens![/INST]",
                &[3, 80, 501, 119, 541, 52, 40, 57, 58, 59, 60, 289, 115, 285, 123, 41, 4][..],
            ),
            ("  The café\n\nis OPEN.", &[40, 385, 283, 105, 110, 203, 177, 18, 18, 278, 504, 88, 77, 86, 54]),
            (
                "héllo wörld 漢字 <s>",
                &[112, 203, 177, 294, 119, 272, 203, 190, 122, 330, 40, 238, 196, 170, 237, 181, 159, 40, 1],
            ),
        ] {
            assert_eq!(tokenizer.encode(text, Special::RENDERED).unwrap(), ids, "{text}");
        }
        assert_eq!(tokenizer.encode("A", Special::TEXT).unwrap(), [1, 8 + 65], "a text begins with BOS");
    }
}

#[test]
fn damaged_tekken_files_are_refused() {
    let edited = |edit: &dyn Fn(&mut Json)| {
        let mut file = tekken();
        edit(&mut file);
        mistral(&file).error(640)
    };
    for (edit, words) in [
        (&(|t: &mut Json| t["vocab"] = json!([])) as &dyn Fn(&mut Json), "0 tokens, needed are 630"),
        (&|t| t["vocab"][300]["rank"] = json!(5), "token 300 of the vocabulary has the rank 5"),
        (&|t| t["vocab"][300]["token_bytes"] = json!("%%"), "token 300 is no base64"),
        (&|t| t["vocab"][300]["token_bytes"] = json!(""), "token 300 has 0 bytes"),
        (&|t| t["vocab"][300] = t["vocab"][299].clone(), "token 300 of the vocabulary has the rank 299"),
        (&|t| t["vocab"][300]["token_bytes"] = t["vocab"][299]["token_bytes"].clone(), "the same bytes"),
        (&|t| t["special_tokens"][1]["rank"] = json!(9), "\"<s>\" has the rank 9"),
        (&|t| t["special_tokens"][1]["token_str"] = json!("<unk>"), "two special tokens"),
        (&|t| t["config"]["default_num_special_tokens"] = json!(2), "6 special tokens are listed"),
        (&|t| t["config"]["default_num_special_tokens"] = json!(99_999_999), "99999999"),
        (&|t| t["config"]["pattern"] = json!("x"), "`pre`"),
        (&|t| t["config"] = json!(1), "line 1"),
    ] {
        let error = edited(edit);
        mentions(&error, &["tekken.json", words]);
    }
    let bare = mistral(&json!({"config": {"pattern": "x"}, "vocab": []}));
    mentions(&bare.error(640), &["the vocabulary is empty", "copy the file again", "tokenizer.json of a repository"]);
}

fn template(out: &Metadata, name: &str) -> Option<String> {
    out.get(&format!("tokenizer.chat_template{name}"))?.as_str().map(str::to_owned)
}

/// transformers asks files of their own first, then tokenizer_config.json.
#[test]
fn the_first_of_several_chat_templates_is_used_and_told() {
    let config = |c: &mut Json| c["chat_template"] = json!("of the configuration");
    let copy = Copy::of("tiny-qwen2").edited("tokenizer_config.json", config);
    assert_eq!(template(&copy.read(640).unwrap(), "").as_deref(), Some("of the configuration"));
    let copy = copy.with("chat_template.jinja", "of the\r\nfile\r\n");
    let (out, notes) = copy.noted(640).unwrap();
    assert_eq!(template(&out, "").as_deref(), Some("of the\nfile\n"));
    noted(&notes, &["chat_template.jinja and tokenizer_config.json have different chat templates"]);
    // The same text twice is no difference.
    let copy = copy.edited("tokenizer_config.json", |c| c["chat_template"] = json!("of the\nfile"));
    assert!(!copy.noted(640).unwrap().1.iter().any(|n| n.contains("different")));
    let copy = copy.with("additional_chat_templates/tool_use.jinja", "tools");
    assert_eq!(template(&copy.read(640).unwrap(), ".tool_use").as_deref(), Some("tools"));
    // A folder of templates without a default takes the place of the configuration's, as it does there.
    let (out, notes) = copy.without("chat_template.jinja").noted(640).unwrap();
    assert_eq!((template(&out, ""), template(&out, ".tool_use").as_deref()), (None, Some("tools")));
    noted(&notes, &["different chat templates"]);
}

#[test]
fn conversations_with_tools_have_a_template_of_their_own() {
    let copy = Copy::of("tiny-qwen2")
        .with("chat_template.jinja", "plain {{ eos_token }}{{ bos_token }}")
        .with("additional_chat_templates/tool_use.jinja", "{{ tools | length }} tools");
    let (_, notes) = copy.noted(640).unwrap();
    noted(&notes, &["the chat template writes bos_token", "<|endoftext|>"]);
    let chat = ChatTemplate::open(&directory(&copy)).unwrap();
    let render = |line: Json| chat.render(Conversation::from_json(line.as_object().unwrap()).unwrap(), true).unwrap();
    let messages = json!([{"role": "user", "content": "x"}]);
    // tokenizer_config.json says null for bos_token, whatever id config.json has.
    assert_eq!(render(json!({"messages": messages})), "plain <|im_end|>");
    assert_eq!(render(json!({"messages": messages, "tools": [{}, {}]})), "2 tools");
}
