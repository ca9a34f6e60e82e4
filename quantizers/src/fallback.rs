//! What to store instead where a type's blocks do not divide a row. The table is llama.cpp's, so that a file converted
//! here has the types that its users expect.

use crate::{Spec, Store, formats};

/// Type wanted, and the type with smaller blocks and about as many bits that takes its place. Anything else, and
/// anything whose substitute does not divide the row either, becomes [`LAST`].
static FALLBACKS: &[(&str, &str)] = &[
    ("iq1_s", "iq4_nl"),
    ("iq1_m", "iq4_nl"),
    ("iq2_xxs", "iq4_nl"),
    ("iq2_xs", "iq4_nl"),
    ("iq2_s", "iq4_nl"),
    ("iq3_xxs", "iq4_nl"),
    ("iq3_s", "iq4_nl"),
    ("iq4_xs", "iq4_nl"),
    ("q2_0", "q4_0"),
    ("q2_k", "q4_0"),
    ("q3_k", "q4_0"),
    ("tq1_0", "q4_0"),
    ("tq2_0", "q4_0"),
    ("q4_k", "q5_0"),
    ("q5_k", "q5_1"),
    ("q6_k", "q8_0"),
];

/// Has no blocks, so it fits every row.
const LAST: &dyn Store = &formats::F16;

/// The type to use instead of `spec` for rows of `cols` weights, and why; `None` if `spec` itself divides them.
///
/// The type returned always divides `cols`.
pub fn fallback(spec: &Spec, cols: usize) -> Option<(&'static dyn Store, String)> {
    if cols.is_multiple_of(spec.block) {
        return None;
    }
    let reason = format!("{cols} columns, {} needs a multiple of {}", spec.name, spec.block);
    let substitute = FALLBACKS.iter().find(|(wanted, _)| *wanted == spec.name).map(|(_, substitute)| named(substitute));
    let fits = substitute.filter(|s| cols.is_multiple_of(s.spec().block));
    Some((fits.unwrap_or(LAST), reason))
}

fn named(name: &str) -> &'static dyn Store {
    formats::by_name(name).expect("the table's substitutes are rows of FORMATS")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{self, SPECS};

    fn spec_of(name: &str) -> &'static Spec {
        spec::by_name(name).expect("the table names rows of SPECS")
    }

    fn name(wanted: &str, cols: usize) -> Option<&'static str> {
        fallback(spec_of(wanted), cols).map(|(store, _)| store.spec().name)
    }

    #[test]
    fn follows_the_table_of_llama_cpp() {
        assert_eq!(name("q4_k", 512), None);
        assert_eq!(name("q4_k", 288), Some("q5_0"));
        assert_eq!(name("q5_k", 288), Some("q5_1"));
        assert_eq!(name("q6_k", 288), Some("q8_0"));
        assert_eq!(name("q3_k", 288), Some("q4_0"));
        assert_eq!(name("iq2_xxs", 288), Some("iq4_nl"));
        assert_eq!(name("q6_k", 172), Some("f16"));
        assert_eq!(name("q4_0", 172), Some("f16"));
        assert_eq!(name("mxfp4", 172), Some("f16"));
        assert_eq!(name("bf16", 171), None);
    }

    #[test]
    fn says_why() {
        let (_, reason) = fallback(spec_of("q8_0"), 172).expect("172 is no multiple of 32");
        assert_eq!(reason, "172 columns, q8_0 needs a multiple of 32");
    }

    #[test]
    fn whatever_is_returned_divides_the_row() {
        for spec in SPECS {
            for cols in (1..600).chain([4096, 11008]) {
                match fallback(spec, cols) {
                    None => assert_eq!(cols % spec.block, 0),
                    Some((other, _)) => assert_eq!(cols % other.spec().block, 0, "{} at {cols}", spec.name),
                }
            }
        }
        for (wanted, substitute) in FALLBACKS {
            assert!(spec_of(wanted).block > named(substitute).spec().block, "{wanted}");
        }
    }
}
