//! A checkpoint seen through a model: every parameter's rows in canonical form, as F32.
//!
//! Binding checks names and shapes of everything first and reports all faults in one error; reading then cannot
//! meet a tensor that does not fit. Used by whoever needs weights: the pipeline, the runtime, inspection.
