//! How many weights go.

use std::fmt;
use std::str::FromStr;

/// How many weights of a matrix become zero.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sparsity {
    /// This share of them, above 0 and below 1.
    Share(f64),
    /// All but so many of every few consecutive weights of a row: `2:4` keeps two of four.
    Pattern {
        /// How many stay.
        keep: usize,
        /// Of how many.
        of: usize,
    },
}

/// Why a text is no sparsity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SparsityError(String);

impl Sparsity {
    /// The share of weights that go.
    pub fn share(self) -> f64 {
        match self {
            Sparsity::Share(share) => share,
            Sparsity::Pattern { keep, of } => 1.0 - keep as f64 / of as f64,
        }
    }

    /// How many of `len` weights go: the nearest whole number.
    pub fn pruned(self, len: usize) -> usize {
        (self.share() * len as f64).round() as usize
    }

    /// Whether rows of `cols` weights can have it: a pattern must divide them.
    pub fn divides(self, cols: usize) -> bool {
        match self {
            Sparsity::Share(_) => true,
            Sparsity::Pattern { of, .. } => cols.is_multiple_of(of),
        }
    }
}

/// Largest M of a pattern N:M. It divides the columns that solvers take at a time.
pub(crate) const WIDEST: usize = 64;

impl FromStr for Sparsity {
    type Err = SparsityError;

    fn from_str(text: &str) -> Result<Sparsity, SparsityError> {
        let wrong = |why: &str| Err(SparsityError(format!("{why}; needed is a share such as 50% or 0.5, or 2:4")));
        if let Some((keep, of)) = text.split_once(':') {
            return match (keep.trim().parse(), of.trim().parse::<usize>()) {
                (Ok(keep), Ok(of)) if 0 < keep && keep < of && of <= WIDEST && of.is_power_of_two() => {
                    Ok(Sparsity::Pattern { keep, of })
                }
                (Ok(0), Ok(_)) => wrong("N:M keeps N of M weights, and 0 would keep none"),
                (Ok(keep), Ok(of)) if keep >= of => wrong("N:M keeps N of M weights, so N must be below M"),
                (Ok(_), Ok(_)) => wrong("M of N:M must be a power of two, 64 at most"),
                _ => wrong("N and M of N:M must be whole numbers"),
            };
        }
        let (number, unit) = match text.strip_suffix('%') {
            Some(number) => (number, 100.0),
            None => (text, 1.0),
        };
        match number.trim().parse::<f64>().map(|x| x / unit) {
            Ok(share) if share > 0.0 && share < 1.0 => Ok(Sparsity::Share(share)),
            Ok(0.0) => wrong("a sparsity of 0 prunes nothing"),
            Ok(1.0) => wrong("a sparsity of 1 leaves nothing"),
            Ok(share) if share > 1.0 && unit == 1.0 => wrong("a share must be below 1 (percent need their sign)"),
            Ok(_) => wrong("a share must be between 0 and 100%"),
            Err(_) => wrong("not a number"),
        }
    }
}

impl fmt::Display for Sparsity {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            // Shortest digits that are the same number again, without the noise of a product by 100.
            Sparsity::Share(share) => write!(f, "{}%", (share * 1e6).round() / 1e4),
            Sparsity::Pattern { keep, of } => write!(f, "{keep}:{of}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_patterns_are_read() {
        for (text, sparsity) in [
            ("50%", Sparsity::Share(0.5)),
            ("0.5", Sparsity::Share(0.5)),
            ("12.5 %", Sparsity::Share(0.125)),
            ("2:4", Sparsity::Pattern { keep: 2, of: 4 }),
            ("4:8", Sparsity::Pattern { keep: 4, of: 8 }),
        ] {
            assert_eq!(text.parse(), Ok(sparsity), "{text}");
            assert_eq!(sparsity.to_string().parse(), Ok(sparsity));
        }
        assert_eq!(Sparsity::Pattern { keep: 1, of: 4 }.share(), 0.75);
        assert_eq!(Sparsity::Share(0.6).pruned(7), 4);
    }

    #[test]
    fn what_prunes_nothing_or_all_is_refused_with_the_reason() {
        for (text, word) in [
            ("0", "nothing"),
            ("0%", "nothing"),
            ("100%", "leaves nothing"),
            ("1", "leaves nothing"),
            ("1.5", "percent need their sign"),
            ("150%", "between 0 and 100%"),
            ("-1%", "between"),
            ("nan", "between"),
            ("3:2", "N must be below M"),
            ("4:4", "N must be below M"),
            ("0:4", "none"),
            ("2:128", "64"),
            ("2:6", "power of two"),
            ("2:x", "whole numbers"),
            ("half", "not a number"),
        ] {
            let error = text.parse::<Sparsity>().unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("2:4"), "{text}: {error}");
        }
    }
}
