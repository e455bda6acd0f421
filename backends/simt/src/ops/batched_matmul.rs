//! Products of activations, in tiles of 16 x 16.

use std::sync::Arc;

use ops::BatchedMatmul;

use crate::device::Chip;
use crate::driver::{SimtDriver, Source};
use crate::launch::{Planned, code, defines, native, resident, source};

const SOURCE: Source = source!("batched_matmul");

/// Rows and columns of a tile.
const SIDE: usize = 16;

pub(super) fn plan<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &BatchedMatmul) -> Planned {
    let group = chip.group(64);
    let defines = defines!["X": op.a, "Y": op.b, "RESIDENT": resident(group)];
    let kernel = chip.kernel(&SOURCE, "batched_matmul", group, &defines)?;
    let (alpha, out_code) = (op.alpha, code(op.out));
    native(chip, move |queue, args| {
        let [out, a, b] = args else {
            unreachable!("counted by check_args")
        };
        let (m, n) = (out.dim(2), out.dim(3));
        let tiles = m.div_ceil(SIDE) * n.div_ceil(SIDE);
        queue
            .call()
            .view(out)
            .view(a)
            .view(b)
            .long(out.dim(1))
            .long(m)
            .long(n)
            .long(a.dim(3))
            .strides4(out)
            .strides4(a)
            .strides4(b)
            .int(out_code)
            .float(alpha)
            .run(&kernel, [out.dim(0) * out.dim(1) * tiles, 1, 1])
    })
}
