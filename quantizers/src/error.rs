//! What can be wrong with numbers. Places (file, tensor) are added by whoever knows them.

/// A numerical failure: the data, not the caller, is at fault.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NumError {
    /// Values that are not finite.
    #[error("{}", non_finite(*.nan, *.inf, *.first))]
    NotFinite {
        /// How many are NaN.
        nan: u64,
        /// How many are infinite.
        inf: u64,
        /// Index of the first of them, counted row-major from the start of the tensor.
        first: u64,
    },
    /// A value whose magnitude the format cannot hold: its stored scale would overflow to infinity.
    #[error("magnitude {found:e} is more than {format} can hold (at most {limit:e})")]
    NotRepresentable {
        /// The format's name.
        format: &'static str,
        /// The largest magnitude found.
        found: f32,
        /// The largest magnitude that the format stores as a finite number.
        limit: f32,
    },
}

fn non_finite(nan: u64, inf: u64, first: u64) -> String {
    let kinds: Vec<String> = [(nan, "NaN"), (inf, "Inf")]
        .into_iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, kind)| format!("{n} {kind}"))
        .collect();
    let total = nan + inf;
    let noun = if total == 1 { "value" } else { "values" };
    format!("{total} non-finite {noun} ({}), first at element {first}", kinds.join(", "))
}
