//! What can be wrong with numbers. Places (file, tensor) are added by whoever knows them.

/// A numerical failure: the data, not the caller, is at fault.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NumError {
    /// Values that are not finite: weights that are damaged, or activations that overflow. No method can use them.
    #[error("{}", non_finite(*.nan, *.inf, *.first))]
    NotFinite {
        /// How many are NaN.
        nan: u64,
        /// How many are infinite.
        inf: u64,
        /// Index of the first of them, counted row-major from the start of the tensor.
        first: u64,
    },
    /// A value whose magnitude the format cannot hold: its stored scale would overflow to infinity. Another format,
    /// such as bf16, holds it.
    #[error("magnitude {found:e} is more than {format} can hold (at most {limit:e})")]
    NotRepresentable {
        /// The format's name.
        format: &'static str,
        /// The largest magnitude found.
        found: f32,
        /// The largest magnitude that the format stores as a finite number.
        limit: f32,
    },
    /// A matrix E\[x x^T\] whose halves differ: it was not summed up by [`Gram`](crate::stats::Gram), or is damaged.
    #[error("not symmetric: element [{row}, {col}] is {lower:e}, [{col}, {row}] is {upper:e}")]
    NotSymmetric {
        /// Row of the element below the diagonal.
        row: usize,
        /// Its column.
        col: usize,
        /// What is there.
        lower: f32,
        /// What is at the mirrored place.
        upper: f32,
    },
    /// A matrix E\[x x^T\] by which some mean square would be negative: too few inputs for so little damping, or it is
    /// damaged. More text or more damping helps in the first case.
    #[error("not a matrix of mean products: {found:e} is left of channel {channel}'s square (damping {damping})")]
    NotSemidefinite {
        /// The channel where it showed.
        channel: usize,
        /// The diagonal element, or what was left of it given other channels.
        found: f64,
        /// The damping that was tried last, in mean diagonal elements; zero if the matrix is refused without trying.
        damping: f64,
    },
    /// A Hessian of zeros: no input came to the matrix. Rounding to nearest needs none.
    #[error("all {channels} channels of the calibration inputs are zero: nothing to weigh errors by")]
    NoActivations {
        /// How many there are.
        channels: usize,
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
