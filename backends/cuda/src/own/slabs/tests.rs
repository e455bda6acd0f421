//! Slabs, and products in many pieces through the stand-in.

#[path = "../../../tests/common/mod.rs"]
mod common;

use backend_simt::Options;
use conformance::Suite;

use super::super::put_cut;
use super::*;
use crate::lt::OnDevice;

/// As small as they can be, of which the suite's own sizes have several.
const SMALL: Cut = Cut {
    weight_bytes: 1,
    sums_bytes: 1,
};

#[test]
fn products_in_many_pieces_are_right() {
    let name = "own::slabs::tests::products_in_many_pieces_are_right";
    common::emulated(name, &[], |stand_in| {
        let (driver, capability) = crate::NVIDIA.open_driver("cuda:0").unwrap();
        let accelerator = backend_simt::open_with_own(driver, Options::default(), |chip, ops| {
            put_cut(chip, ops, capability, OnDevice::library(chip), false, SMALL);
        });
        let suite = Suite::new(accelerator);
        let report = suite.run_where::<Matmul>(|case| case.op.n > TILE);
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

#[test]
fn slabs_are_whole_tiles_as_equal_as_can_be_and_cover_all() {
    const MIB: usize = 1 << 20;
    for (rows, row_bytes, room, each) in [
        (27392, 8192, 64 * MIB, 6912),
        (4608, 8192, 64 * MIB, 4608),
        (64, 8192, 64 * MIB, 64),
        (1000, MIB, 1, 128),
        (8192, 8192, 64 * MIB, 8192),
        (8193, 8192, 64 * MIB, 4224),
    ] {
        assert_eq!(slab(rows, row_bytes, room), each, "{rows} {row_bytes}");
        let covered: Vec<usize> = steps(rows, each).flatten().collect();
        assert!(covered.into_iter().eq(0..rows));
    }
    assert_eq!(steps(0, 0).count(), 0);
}
