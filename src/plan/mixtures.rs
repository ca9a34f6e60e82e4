//! The values of `--type`: the format of matrices in general, and which tensors get another.
//!
//! The rules are llama.cpp's (`llama-quantize` without `--pure`), so that `q4_k_m` is the file that its users know by
//! that name. They are data: they depend on a tensor's role, its block and the model. The first rule that fits decides;
//! after it, [`RAISES`] may give more bits. Reads only shapes.

use aurora_quantizers::{Store, formats};

use crate::model::{Model, Param, Role};
use crate::{Error, Result};

/// A set of rules that gives each matrix a format, and the number that identifies it in GGUF.
#[derive(Debug)]
pub struct FileType {
    /// Name as typed and printed.
    pub name: &'static str,
    /// Aliases: llama-quantize's names.
    pub aliases: &'static [&'static str],
    /// llama.cpp's `general.file_type`.
    pub id: u32,
    /// The format of matrices that no rule selects, and of all with `--pure`.
    base: &'static str,
    /// The exceptions; the first that fits applies.
    rules: &'static [Rule],
    /// One line for `--help`.
    pub about: &'static str,
}

/// An exception: tensors with these roles get this format if all conditions hold.
#[derive(Debug)]
struct Rule {
    roles: &'static [Role],
    when: &'static [When],
    format: &'static str,
}

const fn rule(roles: &'static [Role], when: &'static [When], format: &'static str) -> Rule {
    Rule { roles, when, format }
}

/// A condition on the tensor's place or on the model.
#[derive(Debug)]
enum When {
    /// In the first 1/n of the blocks (rounded down: none if the model has fewer blocks).
    First(usize),
    /// In one of the first n blocks.
    Before(usize),
    /// In the first and last eighth of the blocks, and in every third block between: where errors cost most, and often
    /// enough elsewhere that no long run of blocks goes without.
    Spread,
    /// At least four query heads share each key and value head, so these matrices are small.
    SharedHeads,
    /// The model has eight experts (Mixtral's number; llama.cpp's rules for it require exactly this).
    EightExperts,
    /// The matrix is an expert's, one of several.
    OfExperts,
    /// The model has the shape of one of [`LARGE`].
    Large,
    /// No importances are known.
    Uncalibrated,
    /// Importances are known.
    Calibrated,
}

/// Values, including when they share a matrix with queries and keys: the most sensitive part of attention.
const VALUES: &[Role] = &[Role::AttnV, Role::AttnQkv];
const KEYS_AND_VALUES: &[Role] = &[Role::AttnK, Role::AttnV, Role::AttnQkv];
const ATTN_OUT: &[Role] = &[Role::AttnOut];
const DOWN: &[Role] = &[Role::FfnDown];
const MLP: &[Role] = &[Role::FfnGate, Role::FfnUp, Role::FfnDown];
const OUTPUT: &[Role] = &[Role::Output];
const ANY: &[Role] = &[
    Role::Embedding,
    Role::AttnQ,
    Role::AttnK,
    Role::AttnV,
    Role::AttnQkv,
    Role::AttnOut,
    Role::FfnGate,
    Role::FfnUp,
    Role::FfnDown,
];

/// The output matrix, for every block format except those with eight bits. A tied embedding is the output matrix.
const OUTPUT_6: Rule = rule(OUTPUT, &[], "q6_k");
const OUTPUT_8: Rule = rule(OUTPUT, &[], "q8_0");
/// With eight experts, attention is a small part of the model.
const OUT_OF_EIGHT: Rule = rule(ATTN_OUT, &[When::EightExperts], "q5_k");

/// All file types, in the order in which help and docs list them: from most bits to fewest.
pub static FILE_TYPES: &[FileType] = &[
    FileType { name: "f32", aliases: &[], id: 0, base: "f32", rules: &[], about: "32-bit floats, lossless" },
    FileType {
        name: "f16",
        aliases: &[],
        id: 1,
        base: "f16",
        rules: &[],
        about: "half-precision floats: 11 significant bits, at most 65504",
    },
    FileType {
        name: "bf16",
        aliases: &[],
        id: 32,
        base: "bf16",
        rules: &[],
        about: "bfloat16: 8 significant bits, the range of f32",
    },
    FileType { name: "q8_0", aliases: &[], id: 7, base: "q8_0", rules: &[], about: "8 bits, one scale per 32 weights" },
    FileType {
        name: "q6_k",
        aliases: &[],
        id: 18,
        base: "q6_k",
        rules: &[],
        about: "6 bits, one scale per 16 weights, in super-blocks of 256",
    },
    FileType {
        name: "q5_k_m",
        aliases: &["q5_k"],
        id: 17,
        base: "q5_k",
        rules: &[OUTPUT_6, rule(VALUES, &[When::Spread], "q6_k"), rule(DOWN, &[When::Spread], "q6_k")],
        about: "5 bits, scale and minimum per 32 weights, in super-blocks of 256; some matrices at 6",
    },
    FileType {
        name: "q5_k_s",
        aliases: &[],
        id: 16,
        base: "q5_k",
        rules: &[OUTPUT_6],
        about: "like q5_k_m, with only the output matrix above 5 bits",
    },
    FileType {
        name: "q5_1",
        aliases: &[],
        id: 9,
        base: "q5_1",
        rules: &[OUTPUT_6],
        about: "5 bits, scale and minimum per 32 weights",
    },
    FileType {
        name: "q5_0",
        aliases: &[],
        id: 8,
        base: "q5_0",
        // Importances can make the first blocks worse: they have a few enormous inputs.
        rules: &[OUTPUT_6, rule(DOWN, &[When::First(8), When::Calibrated], "q5_1")],
        about: "5 bits, one scale per 32 weights",
    },
    FileType {
        name: "q4_k_m",
        aliases: &["q4_k"],
        id: 15,
        base: "q4_k",
        rules: &[OUTPUT_6, rule(VALUES, &[When::Spread], "q6_k"), rule(DOWN, &[When::Spread], "q6_k"), OUT_OF_EIGHT],
        about: "4 bits, scale and minimum per 32 weights, in super-blocks of 256; some matrices at 6; the usual choice",
    },
    FileType {
        name: "q4_k_s",
        aliases: &[],
        id: 14,
        base: "q4_k",
        rules: &[
            OUTPUT_6,
            rule(VALUES, &[When::Before(4)], "q5_k"),
            rule(DOWN, &[When::First(8)], "q5_k"),
            OUT_OF_EIGHT,
        ],
        about: "like q4_k_m, with fewer matrices above 4 bits",
    },
    FileType {
        name: "q4_1",
        aliases: &[],
        id: 3,
        base: "q4_1",
        rules: &[OUTPUT_6],
        about: "4 bits, scale and minimum per 32 weights",
    },
    FileType {
        name: "q4_0",
        aliases: &[],
        id: 2,
        base: "q4_0",
        rules: &[OUTPUT_6, rule(DOWN, &[When::First(8), When::Calibrated], "q4_1")],
        about: "4 bits, one scale per 32 weights",
    },
    FileType {
        name: "iq4_nl",
        aliases: &[],
        id: 25,
        base: "iq4_nl",
        rules: &[
            OUTPUT_6,
            rule(VALUES, &[When::SharedHeads], "q5_k"),
            rule(DOWN, &[When::First(8), When::Uncalibrated], "q5_k"),
            OUT_OF_EIGHT,
        ],
        about: "4 bits, non-linear levels, one scale per 32 weights",
    },
    FileType {
        name: "iq4_xs",
        aliases: &[],
        id: 30,
        base: "iq4_xs",
        rules: &[
            OUTPUT_6,
            rule(VALUES, &[When::SharedHeads], "q5_k"),
            rule(DOWN, &[When::First(8), When::Uncalibrated], "q5_k"),
            OUT_OF_EIGHT,
        ],
        about: "4 bits, non-linear levels, one scale per 32 weights, in super-blocks of 256",
    },
    FileType {
        name: "mxfp4",
        aliases: &["mxfp4_moe"],
        id: 38,
        base: "mxfp4",
        rules: &[OUTPUT_8, rule(MLP, &[When::OfExperts], "mxfp4"), rule(ANY, &[], "q8_0")],
        about: "4-bit floats, a power-of-two scale per 32 weights, for expert matrices; 8 bits for the others",
    },
    FileType {
        name: "q3_k_l",
        aliases: &[],
        id: 13,
        base: "q3_k",
        rules: &[
            OUTPUT_6,
            rule(VALUES, &[], "q5_k"),
            rule(DOWN, &[], "q5_k"),
            rule(ATTN_OUT, &[When::EightExperts], "q3_k"),
            rule(ATTN_OUT, &[], "q5_k"),
        ],
        about: "3 bits, one scale per 16 weights, in super-blocks of 256; some matrices at 5",
    },
    FileType {
        name: "q3_k_m",
        aliases: &["q3_k"],
        id: 12,
        base: "q3_k",
        rules: &[
            OUTPUT_6,
            rule(VALUES, &[When::Before(2)], "q5_k"),
            rule(VALUES, &[], "q4_k"),
            rule(DOWN, &[When::First(16)], "q5_k"),
            rule(DOWN, &[], "q4_k"),
            OUT_OF_EIGHT,
            rule(ATTN_OUT, &[], "q4_k"),
        ],
        about: "like q3_k_l, with most of those matrices at 4",
    },
    FileType {
        name: "q3_k_s",
        aliases: &[],
        id: 11,
        base: "q3_k",
        rules: &[OUTPUT_6, OUT_OF_EIGHT],
        about: "like q3_k_l, with only the output matrix above 3 bits",
    },
    FileType {
        name: "q2_k",
        aliases: &[],
        id: 10,
        base: "q2_k",
        rules: &[
            OUTPUT_6,
            rule(VALUES, &[When::SharedHeads], "q4_k"),
            rule(VALUES, &[], "q3_k"),
            rule(DOWN, &[], "q3_k"),
            OUT_OF_EIGHT,
            rule(ATTN_OUT, &[], "q3_k"),
        ],
        about: "2 bits, scale and minimum per 16 weights, in super-blocks of 256; some matrices at 3",
    },
    FileType {
        name: "q2_k_s",
        aliases: &[],
        id: 21,
        base: "q2_k",
        rules: &[OUTPUT_6, rule(VALUES, &[When::SharedHeads], "q4_k"), rule(DOWN, &[When::First(8)], "q4_k")],
        about: "like q2_k, with fewer matrices above 2 bits; use it only with an importance matrix",
    },
];

/// Exceptions that raise the format a rule gave, in every file of quantised types: roles, condition, formats that are
/// raised (empty: all), and the new format. The first that fits applies.
static RAISES: &[(&[Role], When, &[&str], &str)] = &[
    (KEYS_AND_VALUES, When::EightExperts, &[], "q8_0"),
    // Eight query heads share a value head, so this costs almost nothing.
    (VALUES, When::Large, &["q3_k", "q4_k"], "q5_k"),
];

/// The shapes that llama.cpp treats as its 70B models: architecture in GGUF, blocks, whether only with shared heads.
static LARGE: &[(&str, usize, bool)] = &[("llama", 80, true), ("qwen2", 80, false)];

impl FileType {
    /// The file type with this name, in any case.
    ///
    /// # Errors
    /// If there is none; the error lists the known ones.
    pub fn by_name(name: &str) -> Result<&'static FileType> {
        let called = |t: &&FileType| t.names().any(|n| n.eq_ignore_ascii_case(name));
        FILE_TYPES.iter().find(called).ok_or_else(|| {
            let known: Vec<_> = FILE_TYPES.iter().map(|t| t.name).collect();
            Error::setting("type", name, format!("unknown; known types: {}", known.join(", ")))
        })
    }

    /// Its name and aliases.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }

    /// The format of matrices that no rule selects.
    pub fn base(&self) -> &'static dyn Store {
        named(self.base)
    }

    /// The format of a matrix of `model`. `calibrated`: whether importances are known.
    pub(super) fn store(&self, param: &Param, model: &Model, calibrated: bool) -> &'static dyn Store {
        // A tied embedding is the output matrix.
        let role = match param.role {
            Role::Embedding if model.hyper.tied => Role::Output,
            role => role,
        };
        let holds = |when: &When| when.holds(param, model, calibrated);
        let fits = |r: &&Rule| r.roles.contains(&role) && r.when.iter().all(holds);
        let format = self.rules.iter().find(fits).map_or(self.base, |r| r.format);
        if self.base().spec().block == 1 {
            return named(format); // floats have no mixtures
        }
        let raised = RAISES.iter().find(|(roles, when, from, _)| {
            roles.contains(&role) && holds(when) && (from.is_empty() || from.contains(&format))
        });
        named(raised.map_or(format, |(.., to)| to))
    }
}

impl When {
    fn holds(&self, param: &Param, model: &Model, calibrated: bool) -> bool {
        let (hyper, blocks) = (&model.hyper, model.hyper.blocks);
        let in_block = |test: &dyn Fn(usize) -> bool| param.block.is_some_and(test);
        match *self {
            When::First(part) => in_block(&|i| i < blocks / part),
            When::Before(end) => in_block(&|i| i < end),
            When::Spread => {
                let (first, last) = (blocks / 8, 7 * blocks / 8);
                in_block(&|i| i < first || i >= last || (i - first) % 3 == 2)
            }
            When::SharedHeads => hyper.heads / hyper.kv_heads >= 4,
            When::EightExperts => hyper.experts.as_ref().is_some_and(|e| e.count == 8),
            When::OfExperts => param.shape.len() == 3 && param.shape[0] > 1,
            When::Large => LARGE.iter().any(|&(arch, size, shared)| {
                model.arch.gguf == arch && blocks == size && (!shared || hyper.heads != hyper.kv_heads)
            }),
            When::Uncalibrated => !calibrated,
            When::Calibrated => calibrated,
        }
    }
}

/// The formats that a single matrix can be asked to have: every row of [`FORMATS`](formats::FORMATS) but F64, which has
/// more bits than the numbers that come here.
pub fn tensor_types() -> Vec<&'static dyn Store> {
    formats::FORMATS.iter().copied().filter(|store| store.spec().bits_per_weight() <= 32.0).collect()
}

/// The format with this name, in any case, for a single matrix. `setting`: what names it.
///
/// # Errors
/// If there is none that a matrix can have; the error lists those that there are.
pub fn tensor_type(setting: &str, name: &str) -> Result<&'static dyn Store> {
    tensor_types().into_iter().find(|s| s.spec().name.eq_ignore_ascii_case(name)).ok_or_else(|| {
        let known: Vec<_> = tensor_types().iter().map(|s| s.spec().name).collect();
        Error::setting(setting, name, format!("unknown; known types: {}", known.join(", ")))
    })
}

fn named(name: &str) -> &'static dyn Store {
    formats::by_name(name).expect("the tables name rows of FORMATS")
}
