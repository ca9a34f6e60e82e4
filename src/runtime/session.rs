//! One sequence: how much of it has been seen, and its keys and values.

use super::cache::Cache;

/// The state of one sequence: its key-value cache.
pub struct Session {
    pub(super) used: usize,
    /// One per attention op, in the order in which they run.
    pub(super) caches: Vec<Cache>,
}

impl Session {
    /// Positions filled.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Forgets everything. Memory is kept for what comes next.
    pub fn reset(&mut self) {
        self.truncate(0);
    }

    /// Forgets all positions from `used` on, so that another continuation can be tried.
    ///
    /// # Panics
    /// If fewer are filled.
    pub fn truncate(&mut self, used: usize) {
        assert!(used <= self.used, "truncation to {used} of {} positions", self.used);
        self.used = used;
    }

    /// Makes room for `positions` in all, so that no later call has to. Without it, room is made as it is needed.
    pub fn reserve(&mut self, positions: usize) {
        self.caches.iter_mut().for_each(|c| c.reserve(positions));
    }

    /// Bytes that keys and values take at present.
    pub fn bytes(&self) -> usize {
        self.caches.iter().map(Cache::bytes).sum()
    }
}
