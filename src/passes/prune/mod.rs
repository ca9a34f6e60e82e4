//! Pruning: weights become zero. Each method is a file here; what they share is in `shared`.
//!
//! A pass of this kind says which weights stay ([`BlockState::prune`]); passes after it see the mask, and keep what is
//! zero at zero.

pub(super) mod admm;
pub(super) mod magnitude;
pub(super) mod ria;
mod shared;
pub(super) mod sparsegpt;
mod targets;
pub(super) mod wanda;

pub(crate) use shared::{EXCHANGED, WEIGHTS, ZEROS};
pub(crate) use targets::{Answer, Question, Targets};

use super::{BlockState, Log, Needs, Pass, PassRow, StatsKind};
