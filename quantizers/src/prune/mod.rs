//! Which weights go, and what those that stay become.
//!
//! A score says what each weight is worth ([`magnitude`], [`wanda`], [`ria`]), a [`Sparsity`] how many go, and
//! [`select`] which. Methods that look at the Hessian choose and correct at once
//! ([`gptq::prune`](crate::gptq::prune)); [`gptq::refit`](crate::gptq::refit) finds, for any mask, the best values of
//! what stays. [`columns`] takes whole columns.

mod bins;
pub mod columns;
mod encode;
mod exchange;
mod score;
mod select;
mod sparsity;

pub use bins::Bins;
pub use encode::encode;
pub use exchange::{Exchanged, exchange};
pub use score::{magnitude, ria, wanda};
pub use select::{Scope, below, select};
pub use sparsity::{Sparsity, SparsityError};

pub(crate) use select::{Ranks, drop_lowest};
pub(crate) use sparsity::WIDEST;
