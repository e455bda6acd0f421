//! Rows of a table. A packed table keeps the canonical layout: its elements, then its scales. A tied one has the
//! layout of the product that it is the weight of.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use hal::{Buffer, Error, Result, Stream, View, WeightFormat};
use ops::{Embedding, HostWeight, Launch, Matmul};

use super::matmul;
use super::native::Planned;
use crate::device::Cpu;
use crate::memory::{CpuMemory, elements, elements_mut};
use crate::simd::{Rows, load_f32, store_f32};

/// Fewer elements than this stay on the calling thread.
const ALONE: usize = 1 << 16;

/// Values converted at a time, through f32.
const PIECE: usize = 128;

/// Plans a look-up: every specification has a kernel.
pub(super) fn plan(cpu: &Cpu, op: &Embedding) -> Planned {
    let product = Matmul::new(op.vocab, op.dim, op.out, op.table);
    Ok(Some(Arc::new(Kernel {
        cpu: cpu.clone(),
        op: op.clone(),
        tied: op.tied.then(|| matmul::layout(cpu, &product)),
    })))
}

struct Kernel {
    cpu: Cpu,
    op: Embedding,
    tied: Option<matmul::Layout>,
}

impl Kernel {
    /// Bytes of all elements; the scales start after them.
    fn data_bytes(&self) -> usize {
        self.op
            .vocab
            .saturating_mul(self.op.table.row_bytes(self.op.dim))
    }

    fn expect(&self, table: &View<'_>) -> Result<()> {
        if let Some(layout) = &self.tied {
            return layout.expect(&self.cpu, table);
        }
        let (scales, dtype) = self.op.table.row_scales(self.op.dim);
        let bytes = self.data_bytes() + self.op.vocab * scales * dtype.bytes();
        if table.buffer().device() == self.cpu.id && table.bytes() == bytes && table.is_contiguous()
        {
            return Ok(());
        }
        Err(Error::invalid(
            "run embedding",
            format!("table is {table:?}, expected {bytes} B packed"),
        )
        .next_step("pass what pack() of the same plan returned"))
    }

    fn table<'a>(&'a self, bytes: &'a [u8]) -> Table<'a> {
        if let Some(layout) = &self.tied {
            return Table::Tied(layout, bytes);
        }
        let (data, scales) = bytes.split_at(self.data_bytes());
        Table::Rows(HostWeight {
            format: self.op.table,
            rows: self.op.vocab,
            cols: self.op.dim,
            data: Cow::Borrowed(data),
            scales: Cow::Borrowed(scales),
        })
    }
}

/// What rows are read from.
enum Table<'a> {
    Rows(HostWeight<'a>),
    Tied(&'a matmul::Layout, &'a [u8]),
}

impl Table<'_> {
    /// Columns `cols` of row `id` as f32.
    fn read(&self, id: usize, cols: Range<usize>, to: &mut [f32; PIECE]) {
        let table = match self {
            Table::Rows(table) => table,
            Table::Tied(layout, bytes) => return layout.read(bytes, id, cols, to),
        };
        let group = match table.format {
            WeightFormat::Dense(dtype) => {
                let from = &table.row(id)[cols.start * dtype.bytes()..cols.end * dtype.bytes()];
                // SAFETY: both slices are that long; rows of a table are aligned for its elements.
                return unsafe { load_f32(dtype, from.as_ptr(), to.as_mut_ptr(), cols.len()) };
            }
            format => format.group().unwrap_or(table.cols),
        };
        for first in cols.clone().step_by(group.min(PIECE)) {
            let scale = table.scale(id, first / group);
            for c in first..(first + group).min(cols.end) {
                to[c - cols.start] = table.element(id, c) * scale;
            }
        }
    }
}

impl Launch for Kernel {
    unsafe fn launch(
        &self,
        _stream: &mut dyn Stream,
        args: &[View<'_>],
        _: &View<'_>,
    ) -> Result<()> {
        let [out, ids, table] = args else {
            unreachable!("counted by check_args")
        };
        self.expect(table)?;
        let Embedding { vocab, dim, .. } = self.op;
        let bytes = self.op.out.bytes();
        let copied = self.op.plain() == Some(self.op.out);
        // SAFETY: `ops` checked type and shape; nothing writes the ids or the table meanwhile.
        let ids = unsafe { elements::<i32>(ids) };
        // SAFETY: as above; any type is bytes.
        let table = self.table(unsafe { elements::<u8>(table) });
        let out = Rows::of(out);
        let alone = ALONE / dim.max(1);
        self.cpu.pool.split(ids.len(), 1, alone, |part| {
            for t in part {
                let id = usize::try_from(ids[t]).ok().filter(|&id| id < vocab);
                // SAFETY: row `t` of `out` is ours, and zero bytes are zeros of every type.
                let row = unsafe {
                    let row = out.element(t, 0);
                    row.write_bytes(0, dim * bytes);
                    std::slice::from_raw_parts_mut(row, dim * bytes)
                };
                let Some(id) = id else { continue };
                if let (true, Table::Rows(table)) = (copied, &table) {
                    // The very bits, whatever they mean.
                    row.copy_from_slice(table.row(id));
                    continue;
                }
                let mut piece = [0.0; PIECE];
                for start in (0..dim).step_by(PIECE) {
                    let cols = start..(start + PIECE).min(dim);
                    table.read(id, cols.clone(), &mut piece);
                    let to = &mut row[start * bytes..cols.end * bytes];
                    // SAFETY: `to` holds these columns, aligned as `out` is.
                    unsafe { store_f32(self.op.out, piece.as_ptr(), to.as_mut_ptr(), cols.len()) };
                }
            }
        });
        Ok(())
    }

    fn pack(&self, weight: &HostWeight<'_>) -> Result<Buffer> {
        if let Some(layout) = &self.tied {
            return layout.pack(&self.cpu, weight);
        }
        weight.expect(self.op.table, self.op.vocab, self.op.dim)?;
        let bytes = weight.data.len() + weight.scales.len();
        let buffer = Buffer::new(CpuMemory::new(bytes, self.cpu.id)?);
        // SAFETY: nothing else knows the buffer yet.
        let all = unsafe { elements_mut::<u8>(&View::of_bytes(&buffer)) };
        let (data, scales) = all.split_at_mut(weight.data.len());
        data.copy_from_slice(&weight.data);
        scales.copy_from_slice(&weight.scales);
        Ok(buffer)
    }
}

#[cfg(test)]
mod tests {
    use hal::DType;
    use ops::reference::Tensor;
    use ops::{EmbeddingArgs, Op};

    use super::*;
    use crate::testing::{Random, contexts, decode, encode};

    #[test]
    fn every_format_gives_its_rows_and_zeros_for_unknown_ids() {
        const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
        let (vocab, dim) = (11, 384);
        let ids = [0, 10, 3, -1, 11, i32::MIN, i32::MAX, 3];
        let mut random = Random::new(1);
        for context in contexts() {
            let device = context.device();
            let mut stream = device.stream().unwrap();
            let ids_buffer = device.alloc(4 * ids.len()).unwrap();
            stream
                .upload(&View::of_bytes(&ids_buffer), bytemuck::cast_slice(&ids))
                .unwrap();
            for table in WeightFormat::ALL {
                let dense = WeightFormat::Dense(DType::F32);
                let data: Vec<u8> = (0..vocab * dim)
                    .flat_map(|_| random.normal().to_le_bytes())
                    .collect();
                let host = HostWeight::new(dense, vocab, dim, data, vec![]).unwrap();
                let host = host.convert(table).unwrap();
                for out in FLOATS {
                    for tied in [false, true] {
                        let op = Embedding {
                            vocab,
                            dim,
                            table,
                            out,
                            tied,
                        };
                        let plan = context.plan(op.clone()).unwrap();
                        let packed = match tied {
                            false => plan.pack(&host).unwrap(),
                            true => {
                                // Its other type and its bias change nothing in how the weight lies.
                                let product = Matmul {
                                    out: DType::F32,
                                    bias: true,
                                    ..Matmul::new(vocab, dim, out, table)
                                };
                                context.plan(product).unwrap().pack(&host).unwrap()
                            }
                        };
                        // Rows with gaps of one element, full of NaN before.
                        let nan = encode(out, f32::NAN).repeat(ids.len() * (dim + 1));
                        let buffer = device.alloc(nan.len()).unwrap();
                        stream.upload(&View::of_bytes(&buffer), &nan).unwrap();
                        let shape = [ids.len(), dim];
                        let args = EmbeddingArgs {
                            out: View::strided(&buffer, 0, out, &shape, &[dim + 1, 1]).unwrap(),
                            ids: View::new(&ids_buffer, DType::I32, &[ids.len()]).unwrap(),
                            table: op.table_view(&packed).unwrap(),
                        };
                        let none = device.alloc(0).unwrap();
                        plan.run(&mut *stream, args, &View::of_bytes(&none))
                            .unwrap();
                        let mut got = vec![0; nan.len()];
                        stream.download(&mut got, &View::of_bytes(&buffer)).unwrap();
                        let id_values = ids.iter().map(|&id| f64::from(id)).collect();
                        let inputs = [Tensor::new(&[ids.len()], id_values), host.dequantise()];
                        let want = &op.reference(&[&shape], &inputs)[0];
                        for t in 0..ids.len() {
                            for c in 0..=dim {
                                let at = (t * (dim + 1) + c) * out.bytes();
                                let got = decode(out, &got[at..]);
                                let Some(&want) = want.row(t).get(c) else {
                                    assert!(got.is_nan(), "{op:?}: wrote into the gap");
                                    continue;
                                };
                                // The product with the scale rounds once to f32, the result once more.
                                let bound = (out.unit_roundoff() + 1.001 * f64::from(f32::EPSILON))
                                    * want.abs();
                                let bound = bound + if out == DType::F16 { 6e-8 } else { 0.0 };
                                assert!(
                                    (got - want).abs() <= bound,
                                    "{op:?} [{t}, {c}]: {got} for {want}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_foreign_table_is_refused() {
        let context = &contexts()[0];
        let device = context.device();
        let table = WeightFormat::Int8Row;
        let op = Embedding {
            vocab: 4,
            dim: 8,
            table,
            out: DType::F32,
            tied: false,
        };
        let plan = context.plan(op).unwrap();
        let buffer = device.alloc(32).unwrap();
        let out = device.alloc(32).unwrap();
        let args = EmbeddingArgs {
            out: View::new(&out, DType::F32, &[1, 8]).unwrap(),
            ids: View::new(&buffer, DType::I32, &[1]).unwrap(),
            table: View::of_bytes(&buffer),
        };
        let mut stream = device.stream().unwrap();
        let e = plan
            .run(&mut *stream, args, &View::of_bytes(&buffer))
            .unwrap_err();
        assert!(e.to_string().contains("expected 48 B packed"), "{e}");
    }
}
