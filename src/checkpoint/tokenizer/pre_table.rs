//! Which regular expressions llama.cpp applies under which `tokenizer.ggml.pre`: facts from its llama-vocab.cpp.
//!
//! Spelled as tokenizer.json spells them and as [`canonical`](super::pre::canonical) leaves them; llama.cpp's own
//! lists are adapted to its regex engine. One row per distinct list.

/// English contractions, whatever their case.
pub(super) const CONTRACTIONS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)";

/// GPT-2's expression: what a ByteLevel step with `use_regex` splits by.
pub(super) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";

/// One pre-tokenizer and the names it has.
pub(super) struct Known {
    /// Canonical regular expressions, applied one after the other.
    pub steps: &'static [&'static str],
    /// The plainest of its names.
    pub name: &'static str,
    /// The name when the model also takes whole words from the vocabulary before merging.
    pub ignoring_merges: Option<&'static str>,
    /// Names that the converter writes for a `model_type`, from the repositories in its table of hashes.
    pub families: &'static [(&'static str, &'static str)],
}

const fn known(
    steps: &'static [&'static str],
    name: &'static str,
    ignoring_merges: Option<&'static str>,
    families: &'static [(&'static str, &'static str)],
) -> Known {
    Known { steps, name, ignoring_merges, families }
}

/// All that can be recognised. Of rows with the same name the first is what llama.cpp applies.
#[rustfmt::skip]
pub(super) static KNOWN: &[Known] = &[
    known(&[
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ], "dbrx", Some("llama-bpe"), &[("llama", "smaug-bpe"), ("chatglm", "chatglm-bpe"), ("glm", "glm4"), ("glm4", "glm4"), ("glm4_moe", "glm4"), ("lfm2", "lfm2"), ("falcon_h1", "falcon-h1")]),
    known(&[
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ], "qwen2", None, &[("stablelm", "stablelm2"), ("grok", "grok-2"), ("hunyuan_v1_moe", "hunyuan"), ("solar_open", "solar-open")]),
    known(&[
        GPT2,
    ], "gpt-2", None, &[("mpt", "mpt"), ("olmo", "olmo"), ("olmoe", "olmo"), ("phi", "phi-2"), ("exaone4", "exaone4"), ("jais", "jais"), ("roberta", "roberta-bpe"), ("modernbert", "modern-bert")]),
    known(&[
        r"\p{N}",
        GPT2,
    ], "starcoder", None, &[("granite", "refact"), ("granitemoe", "refact"), ("granitemoeshared", "refact"), ("granitemoehybrid", "refact"), ("llama", "smollm"), ("cohere", "command-r"), ("cohere2", "command-r"), ("exaone", "exaone"), ("codeshell", "codeshell"), ("mistral", "minerva-7b")]),
    known(&[
        r"Punctuation Contiguous",
        GPT2,
        r"\p{N}+",
        r"[0-9][0-9][0-9]",
    ], "falcon", None, &[]),
    known(&[
        r"[\r\n]",
        r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
        r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
        r"\s+$",
        r"[一-龥ࠀ-一가-퟿]+",
        r"\p{N}+",
    ], "deepseek-llm", None, &[]),
    known(&[
        r"[\r\n]",
        r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
        r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
        r"\s+$",
        r"[一-龥ࠀ-一가-퟿]+",
        r"\p{N}",
    ], "deepseek-llm", None, &[]),
    known(&[
        r"[\r\n]",
        r"\s?\p{L}+",
        r"\s?\p{P}+",
        r"[一-龥ࠀ-一가-퟿]+",
        r"\p{N}",
    ], "deepseek-coder", None, &[]),
    known(&[
        r"\p{N}{1,3}",
        r"[一-龥぀-ゟ゠-ヿ]+",
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
    ], "deepseek-v3", None, &[("hunyuan_v1_dense", "hunyuan-dense")]),
    known(&[
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ], "gpt-4o", None, &[("llama4", "llama4"), ("llama4_text", "llama4"), ("minimax_m2", "minimax-m2")]),
    known(&[
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ], "tekken", None, &[]),
    known(&[
        r"\d{1,3}(?=(?:\d{3})*\b)",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ], "tiny_aya", None, &[("cohere2_moe", "cohere2moe")]),
    known(&[
        r"[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ], "youtu", None, &[]),
    known(&[
        r" ?[^(\s|[.,!?…。，、।۔،])]+",
    ], "bloom", None, &[]),
    known(&[
        r" ?[^(\s|[.,!?…。，、।۔،])]+",
        r"\p{N}",
    ], "viking", None, &[]),
    known(&[
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ], "qwen35", None, &[]),
    known(&[
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}",
    ], "jais-2", None, &[]),
    known(&[
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    ], "bailingmoe", None, &[("bailing_moe_v2", "bailingmoe2"), ("llada_moe", "llada-moe")]),
    known(&[
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",
    ], "seed-coder", None, &[]),
    known(&[
        r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ], "ufakzeka", None, &[]),
    known(&[
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
    ], "exaone-moe", None, &[]),
    known(&[
        r"\p{N}{1,3}",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ], "minicpm5", None, &[]),
    known(&[
        r"\p{N}+",
        r"(?=(\d{3})+(?!\d))",
    ], "superbpe", None, &[]),
];

/// Names that cannot be recognised (made for one tokenizer, or told apart by its vocabulary only), but can be given.
pub(super) static OTHER_NAMES: &[&str] = &[
    "a.x-4.0",
    "afmoe",
    "chameleon",
    "deepseek-r1-qwen",
    "f2llmv2",
    "falcon3",
    "gemma4",
    "gigachat",
    "glm5",
    "gpt3-finnish",
    "granite-docling",
    "granite-embed-multi-311m",
    "granite-embed-multi-97m",
    "hy_v4",
    "jina-de",
    "jina-es",
    "jina-v1-en",
    "jina-v2-code",
    "jina-v2-de",
    "jina-v2-es",
    "jina-v5-nano",
    "joyai-llm",
    "kanana2",
    "kimi-k2",
    "kormo",
    "laguna",
    "llama-v3",
    "llama3",
    "megrez",
    "mellum",
    "mellum2",
    "midm-2.0",
    "pixtral",
    "poro-chat",
    "sarvam-moe",
    "spark2_5",
    "talkie",
    "trillion",
    "whitespace",
];

/// Names whose models take a word from the vocabulary before they merge.
#[rustfmt::skip]
pub(super) const IGNORE_MERGES: &[&str] = &[
    "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano",
    "minicpm5", "youtu", "glm4", "glm5", "tekken",
];
