//! Writes to the paged cache: an invocation per word of a row. A cache too long for one binding is written in parts.

use std::sync::Arc;

use hal::{Result, View};
use ops::KvWrite;

use super::rows::{groups, units};
use crate::gpu::Gpu;
use crate::kernel::{Kernel, Params, Planned, Program, Text, bind_all, native, slots};
use crate::stream::WgpuStream;

const BODY: &str = include_str!("../../kernels/kv_write.wgsl");

pub(super) fn plan(gpu: &Arc<Gpu>, op: &KvWrite) -> Planned {
    let Some(slots) = slots(op) else {
        return Ok(None);
    };
    native(Native {
        program: gpu.program(Text::new(gpu, "kv_write", BODY, &slots, &[]))?,
        op: op.clone(),
    })
}

struct Native {
    program: Arc<Program>,
    op: KvWrite,
}

impl Kernel for Native {
    fn queue(&self, stream: &mut WgpuStream, args: &[View<'_>], _: &View<'_>) -> Result<()> {
        let [k_pages, v_pages, k, v, slots] = *args else {
            unreachable!("counted by check_args")
        };
        if k.is_empty() || k_pages.is_empty() {
            return Ok(());
        }
        let page_bytes = k_pages.bytes() / self.op.pages;
        let at_once = stream.gpu.binding_rows(page_bytes);
        for begin in (0..self.op.pages).step_by(at_once) {
            let pages = begin..self.op.pages.min(begin + at_once);
            let parts = [
                k_pages.slice(0, pages.clone())?,
                v_pages.slice(0, pages.clone())?,
                k,
                v,
                slots,
            ];
            let bound = bind_all(&stream.gpu, &parts)?;
            let units = units(&k_pages, self.op.head_dim);
            let mut params = Params::new()
                .word(k.dim(0))
                .word(self.op.kv_heads)
                .word(self.op.head_dim)
                .word(self.op.page_size)
                .word(units)
                .word(pages.start * self.op.page_size)
                .word(pages.end * self.op.page_size)
                .first(&bound[0])
                .first(&bound[1]);
            for (bound, view) in [(&bound[2], k), (&bound[3], v)] {
                params = params
                    .first(bound)
                    .word(view.strides()[0])
                    .word(view.strides()[1]);
            }
            params = params.first(&bound[4]);
            let items = k.dim(0) * 2 * self.op.kv_heads * units;
            stream.dispatch(&self.program, &bound, &params, groups(items))?;
        }
        Ok(())
    }
}
