//! What can be wrong with a sparse matrix.

/// Why a matrix cannot be packed, or its parts not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SparseError {
    /// Values of this type cannot be stored sparse.
    #[error("{found} cannot be stored sparse; f32, f16, bf16, q8_0 and q4_0 can")]
    Type {
        /// The type's name.
        found: &'static str,
    },
    /// Rows of this length cannot be stored so.
    #[error("{cols} columns; {packing} with values of {values} needs a multiple of {multiple}")]
    Columns {
        /// Weights of a row.
        cols: usize,
        /// The packing's name.
        packing: &'static str,
        /// The type's name.
        values: &'static str,
        /// What must divide them.
        multiple: usize,
    },
    /// A quad of 2:4 with more than two weights that are not zero.
    #[error("row {row}: {stored} of columns {col} to {} are not zero; 2:4 holds 2 of 4", col + 3)]
    Dense {
        /// The row, counted from the first that was given.
        row: usize,
        /// The quad's first column.
        col: usize,
        /// How many are not zero.
        stored: u32,
    },
    /// A part with another length than the rows need.
    #[error("{part}: {found} bytes, {needed} needed")]
    Length {
        /// Which part.
        part: &'static str,
        /// Its length.
        found: usize,
        /// The length that belongs to the rows.
        needed: u64,
    },
    /// A place in the index that does not follow the one before, or a first that is not zero.
    #[error("index: {found} before row {row}, {before} before the row above it")]
    Order {
        /// The row.
        row: usize,
        /// What is stored before it.
        found: i64,
        /// What is stored before the row above.
        before: i64,
    },
    /// A mask with another number of weights than the index says.
    #[error("row {row}: {mask} weights in the mask, {index} values in the index")]
    Count {
        /// The row.
        row: usize,
        /// By its mask; with codes of four bits, the next even number.
        mask: u64,
        /// By the index.
        index: u64,
    },
    /// A nibble that names no two of four columns in order.
    #[error("row {row}: mask {nibble:#x} of columns {col} to {} names no two of them in order", col + 3)]
    Quad {
        /// The row.
        row: usize,
        /// The quad's first column.
        col: usize,
        /// The nibble.
        nibble: u8,
    },
    /// Bits of the mask beyond the last column, or a filler that is no zero.
    #[error("row {row}: {part} has bits beyond the row's last weight")]
    Filler {
        /// The row.
        row: usize,
        /// Which part.
        part: &'static str,
    },
}
