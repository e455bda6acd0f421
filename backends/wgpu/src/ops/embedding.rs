//! Rows of a table: an invocation per word. A table too long for one binding is read in parts.

use std::sync::Arc;

use hal::{Buffer, DType, Result, View};
use ops::{Embedding, HostWeight};

use super::rows::{groups, units};
use super::weight::{Layout, PACKED, SLOTS};
use crate::gpu::Gpu;
use crate::kernel::{Bindings, Kernel, Params, Planned, Program, Slot, Text, bind, native};
use crate::stream::WgpuStream;

const BODY: &str = include_str!("../../kernels/embedding.wgsl");
const PLAIN_TABLE: &str = include_str!("../../kernels/embedding_plain.wgsl");
const PACKED_TABLE: &str = include_str!("../../kernels/embedding_packed.wgsl");

pub(super) fn plan(gpu: &Arc<Gpu>, op: &Embedding) -> Planned {
    let Some(layout) = Layout::new(op.table, op.vocab, op.dim) else {
        return Ok(None);
    };
    let mut slots = vec![Slot::output("out", op.out), Slot::input("ids", DType::I32)];
    let text = match op.plain() {
        Some(dtype) => {
            slots.push(Slot::input("table", dtype));
            Text::new(gpu, "embedding", &[PLAIN_TABLE, BODY].concat(), &slots, &[])
        }
        None => {
            slots.extend(SLOTS);
            let body = [PACKED, PACKED_TABLE, BODY].concat();
            Text::new(gpu, "embedding", &body, &slots, &layout.constants())
        }
    };
    native(Native {
        gpu: Arc::clone(gpu),
        program: gpu.program(text)?,
        op: op.clone(),
        layout,
    })
}

struct Native {
    gpu: Arc<Gpu>,
    program: Arc<Program>,
    op: Embedding,
    layout: Layout,
}

impl Kernel for Native {
    fn queue(&self, stream: &mut WgpuStream, args: &[View<'_>], _: &View<'_>) -> Result<()> {
        let [out, ids, table] = args else {
            unreachable!("counted by check_args")
        };
        if out.is_empty() {
            return Ok(());
        }
        let gpu = &self.gpu;
        let plain = self.op.plain();
        let at_once = match plain {
            Some(dtype) => gpu.binding_rows(self.op.dim * dtype.bytes()),
            None => self.layout.rows_at_once(gpu),
        };
        let (rows, units) = (out.dim(0), units(out, self.op.dim));
        // An empty table has one part too: it gives zeros.
        for begin in (0..self.op.vocab.max(1)).step_by(at_once) {
            let end = self.op.vocab.min(begin + at_once);
            let mut bound = Bindings::new();
            bound.push(bind(gpu, out)?);
            bound.push(bind(gpu, ids)?);
            let mut params = Params::new()
                .word(rows)
                .word(self.op.dim)
                .word(units)
                .word(begin)
                .word(end)
                .word(self.op.vocab)
                .rows(&bound[0], out)
                .first(&bound[1]);
            if plain.is_some() {
                bound.push(bind(gpu, &table.slice(0, begin..end)?)?);
                params = params.first(&bound[2]).word(self.op.dim);
            } else {
                let parts = self.layout.bind(gpu, table.buffer(), begin..end)?;
                params = params
                    .first(&parts[0])
                    .word(self.layout.row_words)
                    .first(&parts[1])
                    .word(self.layout.group())
                    .word(self.layout.scale_words);
                bound.extend(parts);
            }
            stream.dispatch(&self.program, &bound, &params, groups(rows * units))?;
        }
        Ok(())
    }

    fn pack(&self, weight: &HostWeight<'_>) -> Result<Buffer> {
        self.layout.pack(&self.gpu, weight)
    }
}
