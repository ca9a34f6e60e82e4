//! What the name of a model says: organization, base name, finetune, version and size.
//!
//! The heuristics of gguf-py's `Metadata.get_model_id_components`, without its regular expressions.

/// Parts of a model's name; absent ones are `None`.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Name {
    /// The name without the organization.
    pub full: String,
    pub organization: Option<String>,
    pub basename: Option<String>,
    pub finetune: Option<String>,
    pub version: Option<String>,
    pub size_label: Option<String>,
}

#[derive(Default, Clone, Copy)]
struct Is {
    basename: bool,
    size: bool,
    finetune: bool,
    version: bool,
    other: bool,
}

impl Is {
    fn count(self) -> usize {
        [self.basename, self.size, self.finetune, self.version, self.other].into_iter().filter(|&b| b).count()
    }
}

/// Splits `id` ("name" or "org/name"). `total`: parameters of the model, to tell a size from a context length;
/// 0 if not known.
pub(super) fn parse(id: &str, total: u64) -> Name {
    if id.contains(' ') {
        return Name { full: id.to_owned(), ..Name::default() };
    }
    let (organization, full) = match id.split_once('/') {
        Some((org, rest)) => (Some(org).filter(|o| !o.starts_with('.')).map(str::to_owned), rest),
        None => (None, id),
    };
    let mut parts: Vec<(String, Is)> =
        full.split('-').filter(|p| !p.is_empty()).map(|p| (p.to_owned(), Is::default())).collect();
    for (i, (part, is)) in parts.iter_mut().enumerate() {
        annotate(part, is, i == 0, total);
    }
    // "medium" is no size where a number tells it.
    if parts.iter().any(|(p, is)| is.size && p.chars().any(is_decimal)) {
        for (p, is) in &mut parts {
            is.size &= !p.chars().all(char::is_alphabetic);
        }
    }
    let mut at_start = true;
    for (p, is) in &mut parts {
        if at_start && ((is.count() == 0 && p.starts_with(char::is_alphabetic)) || is.version) {
            is.basename = true;
        } else {
            at_start = false;
            is.finetune |= is.count() == 0;
        }
    }
    // A version at the end of the base name is a version.
    for (_, is) in parts.iter_mut().rev().take_while(|(_, is)| is.basename && is.count() > 1) {
        is.basename = false;
    }
    let join = |which: fn(&Is) -> bool| {
        let chosen: Vec<&str> = parts.iter().filter(|(_, is)| which(is)).map(|(p, _)| p.as_str()).collect();
        (!chosen.is_empty()).then(|| chosen.join("-"))
    };
    let mut sizes: Vec<&str> = Vec::new();
    for (p, _) in parts.iter().filter(|(_, is)| is.size) {
        if !sizes.contains(&p.as_str()) {
            sizes.push(p);
        }
    }
    let mut name = Name {
        full: full.to_owned(),
        organization,
        basename: join(|is| is.basename),
        finetune: join(|is| is.finetune),
        version: join(|is| is.version && !is.basename),
        size_label: (!sizes.is_empty()).then(|| sizes.join("-")),
    };
    if name.size_label.is_none() && name.finetune.is_none() && name.version.is_none() {
        // One word could be anything.
        name.basename = None;
    }
    name
}

fn is_decimal(c: char) -> bool {
    c.is_ascii_digit()
}

fn annotate(part: &mut String, is: &mut Is, first: bool, total: u64) {
    let lower = part.to_ascii_lowercase();
    if is_version(&lower) {
        is.version = true;
    } else if is_number_format(&lower) {
        is.other = true;
        *part = part.to_uppercase();
    } else if !first && is_size(&lower) {
        let mut size = part.replace('_', ".");
        // bloom's 7b1 is 7.1B.
        if size.ends_with(is_decimal) {
            let decimal = size.split_off(size.len() - 1);
            let unit = size.split_off(size.len() - 1);
            size = format!("{size}.{decimal}{unit}");
        }
        let unit = size.split_off(size.len() - 1);
        let counted = size.ends_with(is_decimal);
        size.push_str(&if counted { unit.to_uppercase() } else { unit });
        let number = size[..size.len() - 1].parse::<f64>().ok();
        if let Some(n) = number.filter(|_| total != 0 && counted) {
            let power = " KMBT".find(&size[size.len() - 1..]).unwrap_or(0);
            let label = n * 1000f64.powi(power as i32);
            if (label - total as f64).abs() > (7 * u128::from(total) / 8) as f64 {
                // So far off that it is likely the length of the context: "4k".
                is.finetune = true;
                size = size.to_lowercase();
            }
        }
        is.size = !is.finetune;
        *part = size;
    } else if !first && matches!(lower.as_str(), "chat" | "instruct" | "vision" | "lora") {
        is.finetune = true;
    }
}

/// `(v|iter)?\d+([.]\d+)*`
fn is_version(s: &str) -> bool {
    let s = s.strip_prefix("iter").or_else(|| s.strip_prefix('v')).unwrap_or(s);
    s.split('.').all(is_digits)
}

fn is_digits(s: &str) -> bool {
    !s.is_empty() && s.chars().all(is_decimal)
}

/// `i?q\d(_\w)*|b?fp?(16|32)`
fn is_number_format(s: &str) -> bool {
    let quant = s.strip_prefix('i').unwrap_or(s).strip_prefix('q');
    let quant = quant.and_then(|q| q.strip_prefix(is_decimal)).is_some_and(|rest| {
        let chars: Vec<char> = rest.chars().collect();
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        chars.chunks(2).all(|c| matches!(c, ['_', w] if is_word(*w)))
    });
    let float = s.strip_prefix('b').unwrap_or(s).strip_prefix('f');
    quant || float.is_some_and(|f| matches!(f.strip_prefix('p').unwrap_or(f), "16" | "32"))
}

/// `((a|\d+x)?\d+([._]\d+)?[kmbt]\d?|small|mini|medium|large|x?xl)`
fn is_size(s: &str) -> bool {
    if matches!(s, "small" | "mini" | "medium" | "large" | "xl" | "xxl") {
        return true;
    }
    let s = s.strip_suffix(is_decimal).filter(|s| s.ends_with(['k', 'm', 'b', 't'])).unwrap_or(s);
    let Some(s) = s.strip_suffix(['k', 'm', 'b', 't']) else { return false };
    let s = match s.split_once('x') {
        Some((experts, rest)) if is_digits(experts) => rest,
        _ => s.strip_prefix('a').unwrap_or(s),
    };
    match s.split_once(['.', '_']) {
        Some((whole, fraction)) => is_digits(whole) && is_digits(fraction),
        None => is_digits(s),
    }
}

/// A name for people: words of an id with capitals, versions and sizes left as they are.
pub(super) fn title(id: &str) -> String {
    let words = id.trim().replace('-', " ");
    let words = words.split_whitespace().map(|w| {
        let cased = w.chars().any(char::is_lowercase) && !w.chars().any(char::is_uppercase);
        let counted = w.starts_with(is_decimal) || w.strip_prefix('v').is_some_and(|v| v.split('.').all(is_digits));
        if cased && !counted { capitals(w) } else { w.to_owned() }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// A capital after everything that is not a letter: "stories260k" is "Stories260K".
fn capitals(word: &str) -> String {
    let mut out = String::with_capacity(word.len());
    let mut inside = false;
    for c in word.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphabetic();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Id, parameters, title, [organization, basename, finetune, version, size label], from gguf-py 0.19.
    type Case = (&'static str, u64, &'static str, [Option<&'static str>; 5]);

    #[rustfmt::skip]
    const CASES: &[Case] = &[
        ("Meta-Llama-3.1-8B-Instruct", 8030261248, "Meta Llama 3.1 8B Instruct", [None, Some("Meta-Llama-3.1"), Some("Instruct"), None, Some("8B")]),
        ("Mistral-7B-Instruct-v0.3", 7248023552, "Mistral 7B Instruct v0.3", [None, Some("Mistral"), Some("Instruct"), Some("v0.3"), Some("7B")]),
        ("Qwen2.5-0.5B-Instruct", 494032768, "Qwen2.5 0.5B Instruct", [None, Some("Qwen2.5"), Some("Instruct"), None, Some("0.5B")]),
        ("gemma-2-2b-it", 2614341888, "Gemma 2 2b It", [None, Some("gemma-2"), Some("it"), None, Some("2B")]),
        ("Mixtral-8x7B-Instruct-v0.1", 46702792704, "Mixtral 8x7B Instruct v0.1", [None, Some("Mixtral"), Some("Instruct"), Some("v0.1"), Some("8x7B")]),
        ("Phi-3-mini-4k-instruct", 3821079552, "Phi 3 Mini 4k Instruct", [None, Some("Phi-3"), Some("4k-instruct"), None, Some("mini")]),
        ("Phi-3-mini-128k-instruct", 3821079552, "Phi 3 Mini 128k Instruct", [None, Some("Phi-3"), Some("128k-instruct"), None, Some("mini")]),
        ("OLMo-2-1124-7B", 7298617344, "OLMo 2 1124 7B", [None, Some("OLMo-2-1124"), None, None, Some("7B")]),
        ("granite-3.1-2b-base", 2533531648, "Granite 3.1 2b Base", [None, Some("granite-3.1"), Some("base"), None, Some("2B")]),
        ("TinyLlama-1.1B-Chat-v1.0", 1100048384, "TinyLlama 1.1B Chat v1.0", [None, Some("TinyLlama"), Some("Chat"), Some("v1.0"), Some("1.1B")]),
        ("Qwen3-30B-A3B", 30532122624, "Qwen3 30B A3B", [None, Some("Qwen3"), None, None, Some("30B-A3B")]),
        ("gpt2", 124439808, "Gpt2", [None, None, None, None, None]),
        ("gpt2-medium", 354823168, "Gpt2 Medium", [None, Some("gpt2"), None, None, Some("medium")]),
        ("gpt2-xl", 1557611200, "Gpt2 Xl", [None, Some("gpt2"), None, None, Some("xl")]),
        ("bloom-7b1", 7069016064, "Bloom 7b1", [None, Some("bloom"), None, None, Some("7.1B")]),
        ("meta-llama/Llama-2-7b-hf", 6738415616, "Llama 2 7b Hf", [Some("meta-llama"), Some("Llama-2"), Some("hf"), None, Some("7B")]),
        ("SmolLM2-135M", 134515008, "SmolLM2 135M", [None, Some("SmolLM2"), None, None, Some("135M")]),
        ("Llama-3.2-1B", 1235814400, "Llama 3.2 1B", [None, Some("Llama-3.2"), None, None, Some("1B")]),
        ("deepseek-llm-7b-base", 6910365696, "Deepseek Llm 7b Base", [None, Some("deepseek-llm"), Some("base"), None, Some("7B")]),
        ("DeepSeek-R1-Distill-Qwen-1.5B", 1777088000, "DeepSeek R1 Distill Qwen 1.5B", [None, Some("DeepSeek-R1-Distill-Qwen"), None, None, Some("1.5B")]),
        ("stories260k", 263744, "Stories260K", [None, None, None, None, None]),
        ("tiny-llama3", 1300000, "Tiny Llama3", [None, None, None, None, None]),
        ("my_model", 1000, "My_Model", [None, None, None, None, None]),
        ("A model with spaces", 1000, "A Model With Spaces", [None, None, None, None, None]),
        ("./model-7b", 6738415616, "Model 7b", [None, Some("model"), None, None, Some("7B")]),
        ("mistral-nemo--12b-FP16", 12247782400, "Mistral Nemo 12b FP16", [None, Some("mistral-nemo"), None, None, Some("12B")]),
        ("Yi-34B-200K", 34388917248, "Yi 34B 200K", [None, Some("Yi"), Some("200k"), None, Some("34B")]),
        ("c4ai-command-r-v01", 34980831232, "C4Ai Command R v01", [None, Some("c4ai-command-r"), None, Some("v01"), None]),
        ("Nous-Hermes-2-Mixtral-8x7B-DPO", 46702792704, "Nous Hermes 2 Mixtral 8x7B DPO", [None, Some("Nous-Hermes-2-Mixtral"), Some("DPO"), None, Some("8x7B")]),
        ("v1.5", 0, "v1.5", [None, None, None, Some("v1.5"), None]),
        ("-", 0, "", [None, None, None, None, None]),
        ("phi-2", 2779683840, "Phi 2", [None, Some("phi"), None, Some("2"), None]),
        ("starcoder2-3b", 3030371328, "Starcoder2 3b", [None, Some("starcoder2"), None, None, Some("3B")]),
        ("Q4_K-model-7b", 6738415616, "Q4_K Model 7b", [None, None, Some("model"), None, Some("7B")]),
        ("été-7b-Chat", 6738415616, "Été 7b Chat", [None, Some("été"), Some("Chat"), None, Some("7B")]),
        ("model-0_5b", 500000000, "Model 0_5b", [None, Some("model"), None, None, Some("0.5B")]),
        ("x-10t", 10000000000000, "X 10t", [None, Some("x"), None, None, Some("10T")]),
    ];

    #[test]
    fn names_are_split_as_gguf_py_splits_them() {
        for (id, total, wanted, parts) in CASES {
            let n = parse(id, *total);
            assert_eq!(title(&n.full), *wanted, "{id}");
            let found = [&n.organization, &n.basename, &n.finetune, &n.version, &n.size_label];
            assert_eq!(found.map(|p| p.as_deref()), *parts, "{id}");
        }
    }
}
