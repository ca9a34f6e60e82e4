//! The values that one block can hold.

/// Most groups that any block format has (Q6_K: 16 groups of 16).
pub const MAX_GROUPS: usize = 16;

/// Which integer levels a code stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Levels {
    /// The code is the level: every integer from `min` to `max`.
    Linear {
        /// Smallest code.
        min: i8,
        /// Largest code.
        max: i8,
    },
    /// The code is an index into this table, which ascends.
    Table(&'static [i8]),
}

/// One block's fitted levels: `value(i) = scale[g] * level(code) + offset[g]`, `g = i / group_len`, exactly as the
/// decoder will compute it (scales and offsets are already rounded to their stored form).
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    /// Weights that share one scale and offset.
    pub group_len: usize,
    /// Per group; entries past the last group are zero.
    pub scale: [f32; MAX_GROUPS],
    /// Per group; entries past the last group are zero. A format without offsets has -0.0 in its groups: adding it
    /// changes no number, while +0.0 would turn a decoded -0.0 into +0.0 and part with ggml.
    pub offset: [f32; MAX_GROUPS],
    /// The levels that codes stand for.
    pub levels: Levels,
}

impl Grid {
    /// A grid of one group.
    pub fn single(group_len: usize, scale: f32, offset: f32, levels: Levels) -> Self {
        let mut grid = Grid { group_len, scale: [0.0; MAX_GROUPS], offset: [0.0; MAX_GROUPS], levels };
        grid.scale[0] = scale;
        grid.offset[0] = offset;
        grid
    }

    /// The level of a code.
    pub fn level(&self, code: i8) -> f32 {
        match self.levels {
            Levels::Linear { .. } => f32::from(code),
            Levels::Table(table) => f32::from(table[code as usize]),
        }
    }

    /// The decoded value of `code` at position `i` of the block.
    pub fn value(&self, i: usize, code: i8) -> f32 {
        let g = i / self.group_len;
        self.scale[g] * self.level(code) + self.offset[g]
    }

    /// The code whose decoded value is nearest to `x` at position `i`; of two equally near, the lower code.
    /// A group whose scale is zero gives the code nearest to level zero.
    pub fn nearest(&self, i: usize, x: f32) -> i8 {
        let g = i / self.group_len;
        let (scale, offset) = (self.scale[g], self.offset[g]);
        let target = if scale == 0.0 { 0.0 } else { (x - offset) / scale };
        match self.levels {
            // Half rounds down so that ties are broken the same way for every scale sign and table.
            Levels::Linear { min, max } => (target - 0.5).ceil().clamp(f32::from(min), f32::from(max)) as i8,
            Levels::Table(table) => {
                let above = table.partition_point(|&level| f32::from(level) < target);
                let pick = match above {
                    0 => 0,
                    n if n == table.len() => n - 1,
                    n => {
                        let (low, high) = (f32::from(table[n - 1]), f32::from(table[n]));
                        if target - low <= high - target { n - 1 } else { n }
                    }
                };
                pick as i8
            }
        }
    }
}
