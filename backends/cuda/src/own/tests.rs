//! Products in many pieces through the stand-in.

#[path = "../../tests/common/mod.rs"]
mod common;

use backend_emulator::stand_in::product::{SMALL, are_right_in_many_pieces};
use backend_simt::Options;

use super::put_cut;
use crate::lt::OnDevice;

#[test]
fn products_in_many_pieces_are_right() {
    let name = "own::tests::products_in_many_pieces_are_right";
    common::emulated(name, &[], |stand_in| {
        let (driver, capability) = crate::NVIDIA.open_driver("cuda:0").unwrap();
        let accelerator = backend_simt::open_with_own(driver, Options::default(), |chip, ops| {
            put_cut(chip, ops, capability, OnDevice::library(chip), false, SMALL);
        });
        are_right_in_many_pieces(accelerator, &stand_in);
    });
}
