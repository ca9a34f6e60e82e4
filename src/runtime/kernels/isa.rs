//! Which instructions the kernels are compiled for, and the one place that picks the copy.
//!
//! A kernel is a `Task`: arguments and an `#[inline(always)]` body over any `Simd` or `Expand`. `KernelIsa::run` hands
//! it the token of the machine's level inside a function compiled for that level. Built with `--cfg aurora_scalar`,
//! only `Plain` exists.
//!
//! On aarch64, `Plain` is compiled for NEON, which the target promises; only the dotprod instructions have a level of
//! their own.
#![allow(unsafe_code)]

use std::sync::OnceLock;

#[cfg(all(target_arch = "aarch64", not(aurora_scalar)))]
use super::neon::DotProd;
use super::simd::Plain;
use super::sparse::expand::Expand;
#[cfg(all(target_arch = "x86_64", not(aurora_scalar)))]
use super::x86::{Avx2, Avx512};

/// An instruction set that this machine was found to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelIsa(Level);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    /// What the compilation target promises (SSE2 on x86-64, NEON on aarch64).
    Baseline,
    /// AVX2, FMA, F16C, POPCNT and BMI: every x86 server and laptop since 2013.
    #[cfg(all(target_arch = "x86_64", not(aurora_scalar)))]
    Avx2,
    /// AVX-512 F, BW, VL and VNNI: since Ice Lake and Zen 4.
    #[cfg(all(target_arch = "x86_64", not(aurora_scalar)))]
    Avx512,
    /// NEON with dotprod: since Cortex-A76, Neoverse N1 and Apple's M1.
    #[cfg(all(target_arch = "aarch64", not(aurora_scalar)))]
    DotProd,
}

/// What the process was told to use instead of the fastest.
static CHOSEN: OnceLock<KernelIsa> = OnceLock::new();

impl KernelIsa {
    /// The compilation target's own instructions, present everywhere.
    pub const BASELINE: KernelIsa = KernelIsa(Level::Baseline);

    /// What kernels run on unless they are told otherwise: the fastest one present, or the one
    /// [chosen](KernelIsa::choose).
    pub fn best() -> KernelIsa {
        CHOSEN.get().copied().unwrap_or_else(KernelIsa::fastest)
    }

    /// Makes the whole process use this one, so that float sums, which differ in the last place from one instruction
    /// set to the next, can be compared between machines. For tests and benchmarks; only the first call counts.
    pub fn choose(self) {
        let _ = CHOSEN.set(self);
    }

    /// Name as the command line takes it.
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Baseline => "baseline",
            #[cfg(all(target_arch = "x86_64", not(aurora_scalar)))]
            Level::Avx2 => "avx2",
            #[cfg(all(target_arch = "x86_64", not(aurora_scalar)))]
            Level::Avx512 => "avx512",
            #[cfg(all(target_arch = "aarch64", not(aurora_scalar)))]
            Level::DotProd => "dotprod",
        }
    }

    fn fastest() -> KernelIsa {
        #[cfg(all(target_arch = "x86_64", not(aurora_scalar)))]
        {
            if has_avx512() {
                return KernelIsa(Level::Avx512);
            }
            if has_avx2() {
                return KernelIsa(Level::Avx2);
            }
        }
        #[cfg(all(target_arch = "aarch64", not(aurora_scalar)))]
        if has_dotprod() {
            return KernelIsa(Level::DotProd);
        }
        KernelIsa::BASELINE
    }

    /// All that are present, the baseline first: what a test compares.
    pub fn present() -> Vec<KernelIsa> {
        #[allow(unused_mut)]
        let mut all = vec![KernelIsa::BASELINE];
        #[cfg(all(target_arch = "x86_64", not(aurora_scalar)))]
        {
            if has_avx2() {
                all.push(KernelIsa(Level::Avx2));
            }
            if has_avx512() {
                all.push(KernelIsa(Level::Avx512));
            }
        }
        #[cfg(all(target_arch = "aarch64", not(aurora_scalar)))]
        if has_dotprod() {
            all.push(KernelIsa(Level::DotProd));
        }
        all
    }

    /// Runs the copy of `task` that is compiled for this instruction set.
    #[inline]
    pub(super) fn run<T: Task>(self, task: T) -> T::Out {
        match self.0 {
            Level::Baseline => task.run(Plain),
            #[cfg(all(target_arch = "x86_64", not(aurora_scalar)))]
            // SAFETY: an `KernelIsa` of this level exists only where `has_avx2` was true.
            Level::Avx2 => unsafe { avx2(task) },
            #[cfg(all(target_arch = "x86_64", not(aurora_scalar)))]
            // SAFETY: an `KernelIsa` of this level exists only where `has_avx512` was true.
            Level::Avx512 => unsafe { avx512(task) },
            #[cfg(all(target_arch = "aarch64", not(aurora_scalar)))]
            // SAFETY: an `KernelIsa` of this level exists only where `has_dotprod` was true.
            Level::DotProd => unsafe { dotprod(task) },
        }
    }
}

/// Something to compute with vectors.
pub(super) trait Task {
    /// What comes out.
    type Out;
    /// Must be `#[inline(always)]`, or it is compiled without the instructions that `s` stands for.
    fn run<S: Expand>(self, s: S) -> Self::Out;
}

#[cfg(all(target_arch = "x86_64", not(aurora_scalar)))]
fn has_avx2() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx2") && has!("fma") && has!("f16c") && has!("popcnt") && has!("bmi1") && has!("bmi2")
}

#[cfg(all(target_arch = "x86_64", not(aurora_scalar)))]
fn has_avx512() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has_avx2() && has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512vnni")
}

#[cfg(all(target_arch = "x86_64", not(aurora_scalar)))]
#[target_feature(enable = "avx2,fma,f16c,popcnt,bmi1,bmi2")]
fn avx2<T: Task>(task: T) -> T::Out {
    // SAFETY: this function's own features are those that the token stands for.
    task.run(unsafe { Avx2::new() })
}

#[cfg(all(target_arch = "x86_64", not(aurora_scalar)))]
#[target_feature(enable = "avx2,fma,f16c,popcnt,bmi1,bmi2,avx512f,avx512bw,avx512vl,avx512vnni")]
fn avx512<T: Task>(task: T) -> T::Out {
    // SAFETY: this function's own features are those that the token stands for.
    task.run(unsafe { Avx512::new() })
}

#[cfg(all(target_arch = "aarch64", not(aurora_scalar)))]
fn has_dotprod() -> bool {
    std::arch::is_aarch64_feature_detected!("dotprod")
}

#[cfg(all(target_arch = "aarch64", not(aurora_scalar)))]
#[target_feature(enable = "neon,dotprod")]
fn dotprod<T: Task>(task: T) -> T::Out {
    // SAFETY: this function's own features are those that the token stands for.
    task.run(unsafe { DotProd::new() })
}
