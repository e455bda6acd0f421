//! Products in many pieces through the stand-in.

#[path = "../../tests/common/mod.rs"]
mod common;

use backend_simt::Options;
use backend_simt::library::Cut;
use conformance::Suite;
use ops::Matmul;

use super::put_cut;
use crate::lt::OnDevice;

/// As small as they can be, of which the suite's own sizes have several.
const SMALL: Cut = Cut {
    weight_bytes: 1,
    sums_bytes: 1,
};

#[test]
fn products_in_many_pieces_are_right() {
    let name = "own::tests::products_in_many_pieces_are_right";
    common::emulated(name, &[], |stand_in| {
        let (driver, capability) = crate::NVIDIA.open_driver("cuda:0").unwrap();
        let accelerator = backend_simt::open_with_own(driver, Options::default(), |chip, ops| {
            put_cut(chip, ops, capability, OnDevice::library(chip), false, SMALL);
        });
        let suite = Suite::new(accelerator);
        let report = suite.run_where::<Matmul>(|case| case.op.n > 128);
        println!("{report}");
        report.require_pass().unwrap();
        let ran = stand_in.kernels();
        for kernel in ["dequantise", "sums_epilogue"] {
            assert!(ran.contains(kernel), "{kernel} is not among {ran:?}");
        }
        drop(suite);
        assert_eq!(stand_in.live(), [""; 0]);
    });
}
