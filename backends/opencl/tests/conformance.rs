//! The conformance suite on every OpenCL device of this machine.

mod common;

use conformance::metamorphic::properties;
use conformance::{Suite, for_each_op};

use common::each_device;

macro_rules! one_test_per_op {
    ($($name:ident $op:ident),*) => {
        $(#[test]
        fn $name() {
            each_device(|accelerator| {
                let report = Suite::new(accelerator).run::<ops::$op>();
                println!("{report}");
                report.require_pass().unwrap();
            });
        })*
    };
}
for_each_op!(one_test_per_op);

#[test]
fn every_property_holds() {
    each_device(|accelerator| {
        for property in properties(&accelerator) {
            assert!(property.is_fine(), "{property}");
        }
    });
}
