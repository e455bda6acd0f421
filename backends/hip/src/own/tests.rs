//! Products in many pieces through the stand-in.

#[path = "../../tests/library/mod.rs"]
mod library;

use backend_simt::Options;
use backend_simt::library::Cut;
use conformance::Suite;
use ops::Matmul;

use super::put_cut;
use super::units::Units;
use crate::rocblas::OnDevice;

/// As small as they can be, of which the suite's own sizes have several.
const SMALL: Cut = Cut {
    weight_bytes: 1,
    sums_bytes: 1,
};

#[test]
fn products_in_many_pieces_are_right() {
    let name = "own::tests::products_in_many_pieces_are_right";
    library::with_library(name, ["gfx908"; 2], &[], &[], |stand_in| {
        let driver = crate::driver("hip:0").unwrap();
        let accelerator = backend_simt::open_with_own(driver, Options::default(), |chip, ops| {
            let none = |_: &_| Ok(Units::default());
            put_cut(chip, ops, "gfx908", none, OnDevice::library(chip), SMALL);
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
