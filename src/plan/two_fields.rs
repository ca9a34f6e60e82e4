//! A store of several fields, for tests: half of the numbers, and which half. Nothing rounds to it.

use aurora_quantizers::{BlockFormat, Field, Scales, Spec, Store, spec};

use super::{Plan, TensorPlan};
use crate::model::ParamId;

/// The store.
pub struct TwoFields;

fn named(name: &str) -> &'static Spec {
    spec::by_name(name).expect("a row of SPECS")
}

impl Store for TwoFields {
    fn spec(&self) -> &'static Spec {
        named("f16")
    }

    fn fields(&self, shape: &[usize]) -> Vec<Field> {
        let [rows, cols] = shape[..] else { panic!("a matrix") };
        let field = |suffix, spec: &'static Spec, cols| Field {
            suffix,
            spec,
            shape: vec![rows, cols],
            bytes: (rows * cols * spec.bytes) as u64,
        };
        vec![field(".values", named("f16"), cols / 2), field(".mask", named("i8"), cols / 8)]
    }

    fn encode(&self, _: &[f32], _: Scales, _: &mut [u8]) {
        unreachable!("for layouts only");
    }

    fn decode(&self, _: &[u8], _: &mut [f32]) {
        unreachable!("for layouts only");
    }

    fn blocks(&self) -> Option<&dyn BlockFormat> {
        None
    }
}

/// A plan of two matrices, `a` and `b`: 3 rows of 16 numbers.
pub fn plan() -> Plan {
    let tensor = |(i, name): (usize, &str)| TensorPlan {
        param: ParamId(i),
        name: name.to_owned(),
        shape: vec![3, 16],
        requested: &TwoFields,
        store: &TwoFields,
        reason: None,
        fields: TwoFields.fields(&[3, 16]),
        carried: false,
    };
    Plan { file_type: 1, tensors: ["a", "b"].into_iter().enumerate().map(tensor).collect() }
}
