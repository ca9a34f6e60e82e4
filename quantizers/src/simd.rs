//! Which instructions this machine has, and the one macro that compiles a kernel for each of them.
//!
//! A kernel is plain Rust, written once and `#[inline(always)]`. The `dispatch!` macro makes a function that picks, at run
//! time, the copy compiled for the best instruction set present. Both copies are the same source without fused
//! multiply-add, so they give the same bytes; the vectoriser does the rest. On aarch64 NEON is part of the baseline,
//! hence one copy. Built with `--cfg aurora_scalar`, only the baseline copy exists.
//!
//! This is the only file of the crate that may say `unsafe`.
#![allow(unsafe_code)]

/// An instruction set that this machine was found to have. Cannot be made up: only [`Isa::best`] and
/// [`Isa::present`] hand them out, which is what makes calling the matching copy of a kernel sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(pub(crate) Level);

/// What kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// What the compilation target promises (SSE2 on x86-64, NEON on aarch64).
    Baseline,
    /// AVX2.
    #[cfg(all(target_arch = "x86_64", not(aurora_scalar)))]
    Avx2,
}

impl Isa {
    /// The compilation target's own instructions, present everywhere.
    pub const BASELINE: Isa = Isa(Level::Baseline);

    /// The fastest one present.
    #[inline]
    pub fn best() -> Isa {
        #[cfg(all(target_arch = "x86_64", not(aurora_scalar)))]
        if std::arch::is_x86_feature_detected!("avx2") {
            return Isa(Level::Avx2);
        }
        Isa::BASELINE
    }

    /// All that are present, the baseline first: what a test compares.
    pub fn present() -> Vec<Isa> {
        let mut all = vec![Isa::BASELINE];
        if Isa::best() != Isa::BASELINE {
            all.push(Isa::best());
        }
        all
    }
}

/// Makes a function with one more argument, the [`Isa`], from an `#[inline(always)]` kernel:
/// `dispatch!(fn encode_with<L: Layout>(x: &[f32], out: &mut [u8]) = encode_blocks::<L>);`
macro_rules! dispatch {
    ($vis:vis fn $name:ident $(<$g:ident: $bound:path>)? ($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $kernel:expr) => {
        $vis fn $name $(<$g: $bound>)? (isa: $crate::simd::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(all(target_arch = "x86_64", not(aurora_scalar)))]
            #[target_feature(enable = "avx2")]
            fn avx2 $(<$g: $bound>)? ($($arg: $ty),*) $(-> $ret)? {
                $kernel($($arg),*)
            }
            match isa.0 {
                $crate::simd::Level::Baseline => $kernel($($arg),*),
                #[cfg(all(target_arch = "x86_64", not(aurora_scalar)))]
                #[allow(unsafe_code)]
                // SAFETY: an `Isa` of this level exists only where AVX2 was detected.
                $crate::simd::Level::Avx2 => unsafe { avx2 $(::<$g>)? ($($arg),*) },
            }
        }
    };
}
pub(crate) use dispatch;

/// As `dispatch!`, for a kernel with one `const FUSED: bool` parameter: true in a copy compiled for a machine with fused
/// multiply-add, where `mul_add` is one instruction and not a call. Copies round differently, so only for sums that no
/// file's bytes depend on.
macro_rules! dispatch_fused {
    ($vis:vis fn $name:ident ($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $kernel:ident) => {
        $vis fn $name (isa: $crate::simd::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(all(target_arch = "x86_64", not(aurora_scalar)))]
            #[target_feature(enable = "avx2,fma")]
            fn fused($($arg: $ty),*) $(-> $ret)? {
                $kernel::<true>($($arg),*)
            }
            match isa.0 {
                #[cfg(all(target_arch = "x86_64", not(aurora_scalar)))]
                #[allow(unsafe_code)]
                // SAFETY: an `Isa` of this level exists only where AVX2 was detected, and FMA is looked for here.
                $crate::simd::Level::Avx2 if std::arch::is_x86_feature_detected!("fma") => unsafe {
                    fused($($arg),*)
                },
                _ => $kernel::<{ cfg!(target_arch = "aarch64") }>($($arg),*),
            }
        }
    };
}
pub(crate) use dispatch_fused;

/// `x` cut off towards zero and held within `low..=high`; NaN gives `high`. One instruction per step, where the
/// saturating `as` takes several.
///
/// # Panics
/// Never in kernels: the bounds are constants there and the check folds away.
#[inline(always)]
pub(crate) fn trunc_within(x: f32, low: i16, high: i16) -> i32 {
    let (low, high) = (f32::from(low), f32::from(high));
    let x = if x < high { x } else { high };
    let x = if x > low { x } else { low };
    // SAFETY: x is finite and lies within i16 (NaN took `high` above), so it fits an i32.
    unsafe { x.to_int_unchecked() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trunc_within_cuts_towards_zero_and_clamps() {
        let cases = [
            (2.9, 2),
            (-2.9, -2),
            (-0.9, 0),
            (1e30, 127),
            (-1e30, -128),
            (f32::INFINITY, 127),
            (f32::NEG_INFINITY, -128),
            (f32::NAN, 127),
        ];
        for (x, want) in cases {
            assert_eq!(trunc_within(x, -128, 127), want, "{x}");
        }
    }

    #[test]
    fn the_best_isa_is_among_those_present() {
        assert!(Isa::present().contains(&Isa::best()));
        if cfg!(aurora_scalar) {
            assert_eq!(Isa::best(), Isa::BASELINE);
        }
    }
}
