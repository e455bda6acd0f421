//! Products with a weight: one program for few rows of x, one for many. A weight too long for one binding is used in
//! parts of its rows.

use std::sync::Arc;

use hal::{Buffer, Result, View};
use ops::{HostWeight, Matmul};

use super::activation::{ACT, number};
use super::weight::{Layout, PACKED, SLOTS};
use crate::gpu::Gpu;
use crate::kernel::{Bindings, Kernel, Params, Planned, Program, Slot, Text, bind, native};
use crate::stream::WgpuStream;

const COMMON: &str = include_str!("../../kernels/matmul.wgsl");
const FEW_ROWS: &str = include_str!("../../kernels/matmul_few.wgsl");
const TILES: &str = concat!(
    include_str!("../../kernels/tile.wgsl"),
    include_str!("../../kernels/matmul_tile.wgsl")
);

/// Rows of x up to which the first program is used, and columns that its workgroups make, as the kernel has them.
const FEW: usize = 4;
const FEW_COLS: usize = 8;
/// A side of the other's tile.
const TILE: usize = 32;

pub(super) fn plan(gpu: &Arc<Gpu>, op: &Matmul) -> Planned {
    let Some(layout) = Layout::new(op.weight, op.n, op.k) else {
        return Ok(None);
    };
    if !op.x.is_float() || !op.out.is_float() {
        return Ok(None);
    }
    // The programs are the same with and without bias and residual; what is missing is bound to something and not read.
    let slots = [
        Slot::output("out", op.out),
        Slot::input("x", op.x),
        SLOTS[0],
        SLOTS[1],
        Slot::input("bias", hal::DType::F32),
        Slot::input("residual", op.x),
    ];
    let program = |name, kernel: &str| {
        let body = [PACKED, ACT, COMMON, kernel].concat();
        gpu.program(Text::new(gpu, name, &body, &slots, &layout.constants()))
    };
    native(Native {
        gpu: Arc::clone(gpu),
        few: program("matmul of few rows", FEW_ROWS)?,
        tiles: program("matmul", TILES)?,
        op: op.clone(),
        layout,
    })
}

struct Native {
    gpu: Arc<Gpu>,
    few: Arc<Program>,
    tiles: Arc<Program>,
    op: Matmul,
    layout: Layout,
}

impl Kernel for Native {
    fn queue(&self, stream: &mut WgpuStream, args: &[View<'_>], _: &View<'_>) -> Result<()> {
        let (out, x, weight) = (&args[0], &args[1], &args[2]);
        if out.is_empty() {
            return Ok(());
        }
        let (op, gpu) = (&self.op, &self.gpu);
        let bias = op.bias.then(|| &args[3]);
        let residual = op.residual.then(|| &args[3 + usize::from(op.bias)]);
        let m = x.dim(0);
        for begin in (0..op.n).step_by(self.layout.rows_at_once(gpu)) {
            let cols = begin..op.n.min(begin + self.layout.rows_at_once(gpu));
            let n = cols.len();
            let part = out.slice(1, cols.clone())?;
            let mut bound = Bindings::new();
            bound.push(bind(gpu, &part)?);
            bound.push(bind(gpu, x)?);
            bound.extend(self.layout.bind(gpu, weight.buffer(), cols.clone())?);
            let mut params = Params::new()
                .word(m)
                .word(n)
                .word(op.k)
                .word(number(op.activation))
                .word(usize::from(op.bias) + 2 * usize::from(op.residual))
                .rows(&bound[0], out)
                .rows(&bound[1], x)
                .first(&bound[2])
                .word(self.layout.row_words)
                .first(&bound[3])
                .word(self.layout.group())
                .word(self.layout.scale_words);
            bound.push(match bias {
                Some(bias) => bind(gpu, &bias.slice(0, cols.clone())?)?,
                None => bound[1].clone(),
            });
            params = params.first(&bound[4]);
            match residual {
                Some(residual) => {
                    bound.push(bind(gpu, &residual.slice(1, cols)?)?);
                    params = params.rows(&bound[5], residual);
                }
                None => {
                    bound.push(bound[1].clone());
                    params = params.word(0).word(0);
                }
            }
            match m <= FEW {
                true => {
                    stream.dispatch(&self.few, &bound, &params, n.div_ceil(FEW_COLS))?;
                }
                false => {
                    let tiles = m.div_ceil(TILE) * n.div_ceil(TILE);
                    stream.dispatch(&self.tiles, &bound, &params, tiles)?;
                }
            }
        }
        Ok(())
    }

    fn pack(&self, weight: &HostWeight<'_>) -> Result<Buffer> {
        self.layout.pack(&self.gpu, weight)
    }
}
