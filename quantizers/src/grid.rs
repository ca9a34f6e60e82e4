//! The values that one block can hold.

use crate::simd::trunc_within;

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
    /// The code is an index into this table, which ascends; a level may stand twice (MXFP4 has two zeros).
    Table(&'static [i8]),
}

impl Levels {
    /// The level of a code.
    pub fn level(&self, code: i8) -> f32 {
        match *self {
            Levels::Linear { .. } => f32::from(code),
            Levels::Table(table) => f32::from(table[code as usize]),
        }
    }

    /// Asserts that all codes are among these levels.
    ///
    /// # Panics
    /// With the first code that is not; `name`: the format.
    pub fn check(&self, name: &str, codes: &[i8]) {
        let (min, max) = match *self {
            Levels::Linear { min, max } => (min, max),
            Levels::Table(table) => (0, (table.len() - 1) as i8),
        };
        if let Some(code) = codes.iter().find(|code| !(min..=max).contains(*code)) {
            panic!("{name}: code {code} not in {min}..={max}");
        }
    }
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
    /// How a super-block stores its scales and offsets; `None` where they are stored themselves.
    pub parts: Option<SuperScales>,
}

/// The scales and offsets of a super-block's groups, as integers times two numbers in half precision:
/// `scale[g] = step * scales[g]`, `offset[g] = -(offset_step * offsets[g])`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SuperScales {
    /// Unit of the scales; an F16.
    pub step: f32,
    /// Unit of the offsets; an F16. +0.0 in a format without offsets, so that they come out as -0.0.
    pub offset_step: f32,
    /// Per group; entries past the last group are zero.
    pub scales: [i8; MAX_GROUPS],
    /// Per group; entries past the last group are zero.
    pub offsets: [u8; MAX_GROUPS],
}

impl Grid {
    /// A grid of one group.
    pub fn single(group_len: usize, scale: f32, offset: f32, levels: Levels) -> Self {
        let mut grid = Grid { group_len, scale: [0.0; MAX_GROUPS], offset: [0.0; MAX_GROUPS], levels, parts: None };
        grid.scale[0] = scale;
        grid.offset[0] = offset;
        grid
    }

    /// The grid of a super-block of `groups` groups.
    pub fn of_super(group_len: usize, groups: usize, parts: SuperScales, levels: Levels) -> Self {
        let (mut scale, mut offset) = ([0.0; MAX_GROUPS], [0.0; MAX_GROUPS]);
        for g in 0..groups {
            scale[g] = parts.step * f32::from(parts.scales[g]);
            offset[g] = -(parts.offset_step * f32::from(parts.offsets[g]));
        }
        Grid { group_len, scale, offset, levels, parts: Some(parts) }
    }

    /// The level of a code.
    pub fn level(&self, code: i8) -> f32 {
        self.levels.level(code)
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
        let mut code = [0];
        nearest_in_group(&[x], self.scale[g], self.offset[g], self.levels, &mut code);
        code[0]
    }

    /// [`Grid::nearest`] for every weight of a block.
    #[inline(always)]
    pub(crate) fn nearest_all(&self, x: &[f32], codes: &mut [i8]) {
        let groups = x.chunks_exact(self.group_len).zip(codes.chunks_exact_mut(self.group_len));
        for (g, (x, codes)) in groups.enumerate() {
            nearest_in_group(x, self.scale[g], self.offset[g], self.levels, codes);
        }
    }
}

#[inline(always)]
fn nearest_in_group(x: &[f32], scale: f32, offset: f32, levels: Levels, codes: &mut [i8]) {
    let target = |x: f32| if scale == 0.0 { 0.0 } else { (x - offset) / scale };
    match levels {
        // Half rounds down so that ties are broken the same way for every scale sign and table.
        Levels::Linear { min, max } => {
            for (code, x) in codes.iter_mut().zip(x) {
                *code = ceil_within(target(*x) - 0.5, i16::from(min), i16::from(max)) as i8;
            }
        }
        // Halfway between two small integers is exact, so this is the nearest level, of two the lower.
        Levels::Table(table) => {
            for (code, x) in codes.iter_mut().zip(x) {
                let target = target(*x);
                let mut count = 0;
                for pair in table.windows(2) {
                    count += i32::from(target > (f32::from(pair[0]) + f32::from(pair[1])) * 0.5);
                }
                *code = count as i8;
            }
        }
    }
}

/// The smallest whole number not below `x`, held within `low..=high`; SSE2 has no instruction for it.
#[inline(always)]
fn ceil_within(x: f32, low: i16, high: i16) -> i32 {
    let whole = trunc_within(x, low, high);
    whole + i32::from((whole as f32) < x && whole < i32::from(high))
}
