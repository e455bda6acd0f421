//! Products in many pieces through the stand-in.

#[path = "../../tests/library/mod.rs"]
mod library;

use backend_emulator::stand_in::product::{SMALL, are_right_in_many_pieces};
use backend_simt::Options;

use super::put_cut;
use super::units::Units;
use crate::rocblas::OnDevice;

#[test]
fn products_in_many_pieces_are_right() {
    let name = "own::tests::products_in_many_pieces_are_right";
    library::with_library(name, ["gfx908"; 2], &[], &[], |stand_in| {
        let driver = crate::driver("hip:0").unwrap();
        let accelerator = backend_simt::open_with_own(driver, Options::default(), |chip, ops| {
            let none = |_: &_| Ok(Units::default());
            put_cut(chip, ops, "gfx908", none, OnDevice::library(chip), SMALL);
        });
        are_right_in_many_pieces(accelerator, &stand_in);
    });
}
