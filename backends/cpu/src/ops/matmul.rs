//! Matrix product with a weight.
//!
//! Numeric class: weights dequantised exactly, sums in f32. Products of bf16 x with bf16, int8 and int4 weights are
//! `vdpbf16ps` (or `bfdot`, or AMX's tiles) where the level has it: both factors exact, subnormals flushed to zero; f32 products
//! otherwise.
//! The scale of a row multiplies the finished sum, the scale of a group that group's part of it.
//! x is never rounded to a shorter type, unless the CPU was opened with [`crate::Activations::Int8`]: then products with
//! int8 and int4 weights are those of integers ([`Matmul::activation_block`]), the same on every instruction set.
//!
//! One layout and one loop serve every shape: a panel of weight rows lies across the lanes, a value of x is broadcast.
//! With few rows of x ([`tiling::Tiling`]) the panel streams from memory once; with more, blocks of it are decoded into the
//! first-level cache and used by all tiles of x, while the next block is on its way. Where the CPU has registers for tiles
//! ([`crate::Level::Amx`]), a tile of x is one of these.

mod kernel;
mod layout;
mod quantise;
mod span;
pub(super) mod tile;
mod tiling;

use std::sync::Arc;

use hal::{Buffer, DType, Result, Stream, View, WeightFormat};
use ops::{HostWeight, Launch, Matmul};

use super::native::Planned;
use crate::device::Cpu;
use crate::memory::{address, elements};
use crate::simd::{Path, Rows, run};
use kernel::{Call, Pass, Share, Workspace};
pub(super) use layout::Layout;

/// Below this many products the other threads are not worth waking.
const ALONE_PRODUCTS: usize = 1 << 16;
/// About as many products take as long as packing an element of x.
const PACKING_PRODUCTS: usize = 16;

/// How a product's weight lies in memory.
pub(super) fn layout(cpu: &Cpu, op: &Matmul) -> Layout {
    Layout::new(choose(cpu, op), op)
}

/// Plans a product: every specification has a kernel.
pub(super) fn plan(cpu: &Cpu, op: &Matmul) -> Planned {
    Ok(Some(Arc::new(Kernel {
        layout: layout(cpu, op),
        path: choose(cpu, op),
        op: op.clone(),
        cpu: cpu.clone(),
    })))
}

fn choose(cpu: &Cpu, op: &Matmul) -> Path {
    if cpu.rounds_activations && op.activation_block().is_some() {
        return Path::integers(cpu.isa, op.weight);
    }
    let exact_in_bf16 = !matches!(op.weight, WeightFormat::Dense(DType::F32 | DType::F16));
    match Path::bf16(cpu.isa) {
        Some(path) if op.x == DType::BF16 && exact_in_bf16 => path,
        _ => Path::f32(cpu.isa),
    }
}

struct Kernel {
    cpu: Cpu,
    op: Matmul,
    path: Path,
    layout: Layout,
}

impl Launch for Kernel {
    fn workspace_bytes(&self, shapes: &[&[usize]]) -> usize {
        Workspace::new(&self.layout, shapes[0][0], self.cpu.pool.threads()).bytes()
    }

    unsafe fn launch(
        &self,
        _stream: &mut dyn Stream,
        args: &[View<'_>],
        workspace: &View<'_>,
    ) -> Result<()> {
        let (out, x, weight) = (&args[0], &args[1], &args[2]);
        self.layout.expect(&self.cpu, weight)?;
        let mut rest = args[3..].iter();
        // SAFETY: `ops` checked the type; nothing writes a bias while it is read.
        let bias = (self.op.bias.then(|| rest.next()).flatten())
            .map(|bias| unsafe { elements::<f32>(bias) });
        let base: *mut u8 = address(workspace);
        let m = x.dim(0);
        if m == 0 {
            return Ok(());
        }
        let call = Call {
            layout: &self.layout,
            m,
            weight: address(weight),
            x: Rows::of(x),
            out: Rows::of(out),
            bias,
            activation: self.op.activation,
            isa: self.cpu.isa,
            residual: self
                .op
                .residual
                .then(|| rest.next())
                .flatten()
                .map(Rows::of),
            workspace: base.wrapping_add(base.align_offset(64)),
            sizes: Workspace::new(&self.layout, m, self.cpu.pool.threads()),
        };
        self.pass(&call, Pass::PackX, m * self.op.k * PACKING_PRODUCTS);
        self.pass(&call, Pass::Multiply, m * self.op.k * self.op.n);
        Ok(())
    }

    fn pack(&self, weight: &HostWeight<'_>) -> Result<Buffer> {
        self.layout.pack(&self.cpu, weight)
    }
}

impl Kernel {
    fn pass(&self, call: &Call<'_>, pass: Pass, work: usize) {
        call.deal(pass);
        let share = |thread| {
            let share = Share { call, pass, thread };
            run(self.path, &share);
        };
        if work < ALONE_PRODUCTS || call.items(pass) == 1 {
            share(0);
        } else {
            self.cpu.pool.run(|thread, _| share(thread));
        }
    }
}

#[cfg(test)]
mod tests {
    use ops::reference::Tensor;
    use ops::{Act, Context, MatmulArgs, Op, Plan};

    use super::*;
    use crate::testing::{Random, all_levels, context, decode, encode, levels, of_products};
    use crate::{Activations, Level};

    /// Elements between rows beyond their length.
    const GAP: usize = 3;

    #[derive(Debug)]
    struct Case {
        op: Matmul,
        m: usize,
    }

    /// What one launch got and gave, in f64.
    struct Outcome {
        inputs: Vec<Tensor>,
        got: Vec<f64>,
        bytes: Vec<u8>,
    }

    fn host_weight(op: &Matmul, random: &mut Random) -> HostWeight<'static> {
        let dense: Vec<u8> = (0..op.n * op.k)
            .flat_map(|_| random.normal().to_le_bytes())
            .collect();
        let format = WeightFormat::Dense(DType::F32);
        let dense = HostWeight::new(format, op.n, op.k, dense, vec![]).unwrap();
        let weight = dense.convert(op.weight).unwrap();
        let (data, scales) = (weight.data.into_owned(), weight.scales.into_owned());
        HostWeight::new(op.weight, op.n, op.k, data, scales).unwrap()
    }

    /// Runs with gaps between rows, `out` filled with NaN before.
    fn launch(context: &Context, case: &Case, seed: u64) -> Outcome {
        let Case { op, m } = case;
        let (device, m) = (context.device(), *m);
        let random = &mut Random::new(seed);
        let mut stream = device.stream().unwrap();
        let host = host_weight(op, random);
        let mut upload =
            |rows: usize, cols: usize, dtype: DType, values: &mut dyn FnMut() -> f32| {
                let stride = cols + GAP;
                let mut tensor = Tensor::zeros(&[rows, cols]);
                let mut bytes = vec![];
                for r in 0..rows {
                    for c in 0..stride {
                        let element = encode(dtype, values());
                        if c < cols {
                            tensor.row_mut(r)[c] = decode(dtype, &element);
                        }
                        bytes.extend(element);
                    }
                }
                let buffer = device.alloc(bytes.len()).unwrap();
                stream.upload(&View::of_bytes(&buffer), &bytes).unwrap();
                (buffer, tensor)
            };
        let (x, x_values) = upload(m, op.k, op.x, &mut || random.normal());
        let (bias, bias_values) = upload(1, op.n, DType::F32, &mut || random.normal());
        let (residual, residual_values) = upload(m, op.n, op.x, &mut || random.normal());
        let (out, _) = upload(m, op.n, op.out, &mut || f32::NAN);

        let plan: Plan<Matmul> = context.plan(op.clone()).unwrap();
        let weight = plan.pack(&host).unwrap();
        let view = |buffer, dtype, cols: usize| {
            View::strided(buffer, 0, dtype, &[m, cols], &[cols + GAP, 1]).unwrap()
        };
        let args = MatmulArgs {
            out: view(&out, op.out, op.n),
            x: view(&x, op.x, op.k),
            weight: View::of_bytes(&weight),
            bias: (op.bias).then(|| View::new(&bias, DType::F32, &[op.n]).unwrap()),
            residual: op.residual.then(|| view(&residual, op.x, op.n)),
        };
        let workspace = device
            .alloc(plan.workspace_bytes(&[args.out.shape(), args.x.shape()]))
            .unwrap();
        plan.run(&mut *stream, args, &View::of_bytes(&workspace))
            .unwrap();

        let mut bytes = vec![0; out.bytes()];
        stream.download(&mut bytes, &View::of_bytes(&out)).unwrap();
        let mut got = vec![];
        for (i, element) in bytes.chunks_exact(op.out.bytes()).enumerate() {
            let value = decode(op.out, element);
            if i % (op.n + GAP) < op.n {
                got.push(value);
            } else {
                assert!(value.is_nan(), "{op:?}: wrote into the gap between rows");
            }
        }
        let mut inputs = vec![x_values, host.dequantise()];
        inputs.extend(
            op.bias
                .then(|| Tensor::new(&[op.n], bias_values.data[..op.n].to_vec())),
        );
        inputs.extend(op.residual.then_some(residual_values));
        Outcome { inputs, got, bytes }
    }

    /// Checks a launch against the reference, with a bound from the formats and the length alone.
    fn check(context: &Context, case: &Case, seed: u64) {
        let Case { op, m } = case;
        let Outcome {
            mut inputs, got, ..
        } = launch(context, case, seed);
        if context.device().info().numerics.rounds_activations {
            inputs[0] = op.rounded_activations(&inputs[0]);
        }
        let want = &op.reference(&[&[*m, op.n]], &inputs)[0];
        // The same sums of magnitudes: S of every output.
        let plain = Matmul {
            activation: None,
            ..op.clone()
        };
        let magnitudes: Vec<Tensor> = inputs.iter().map(|t| t.map(f64::abs)).collect();
        let s = &plain.reference(&[&[*m, op.n]], &magnitudes)[0];
        let (u32, u) = (DType::F32.unit_roundoff(), op.out.unit_roundoff());
        let k = op.k as f64;
        // Sums in f32 (probabilistic bound, λ = 8), then scale, bias, residual: one rounding each.
        let g = (k.min(8.0 * k.sqrt()) + 4.0) * u32;
        // No activation is steeper than 1.13.
        let lipschitz = if op.activation.is_some() { 1.2 } else { 1.0 };
        // The activation's own roundings, relative to its value.
        let act_units = if op.activation.is_some() { 16.0 } else { 0.0 };
        let tiny = f64::from(f32::MIN_POSITIVE) * (k + 1.0) * 8.0;
        assert_eq!(got.len(), want.data.len());
        for (i, (&got, (&want, &s))) in got.iter().zip(want.data.iter().zip(&s.data)).enumerate() {
            let bound = (u + act_units * u32) * want.abs() + (1.0 + u) * lipschitz * g * s + tiny;
            let bound = bound + if op.out == DType::F16 { 6e-8 } else { 0.0 };
            assert!(
                (got - want).abs() <= bound,
                "{op:?}, m {m}, element {i}: {got:e}, expected {want:e} within {bound:e}"
            );
        }
    }

    #[test]
    fn every_format_type_and_level_stays_within_its_bound() {
        let shapes: [(usize, usize, usize); 9] = [
            (1, 1, 32),
            (1, 70, 256),
            (2, 65, 96),
            (3, 64, 160),
            (5, 33, 32),
            (7, 129, 384),
            (13, 48, 64),
            (70, 67, 224),
            (395, 330, 64),
        ];
        for context in of_products(levels(), Activations::Float) {
            for weight in WeightFormat::ALL {
                for x in [DType::F32, DType::F16, DType::BF16] {
                    for (i, (m, n, k)) in shapes.into_iter().enumerate() {
                        let k = k.next_multiple_of(weight.cols_multiple());
                        let op = Matmul::new(n, k, x, weight);
                        check(&context, &Case { op, m }, i as u64);
                    }
                }
            }
        }
    }

    #[test]
    fn rounded_activations_stay_within_the_bound_of_their_own_reference() {
        for context in of_products(levels(), Activations::Int8) {
            for weight in WeightFormat::ALL {
                for x in [DType::F32, DType::F16, DType::BF16] {
                    for (i, (m, n, k)) in [
                        (0, 5, 8usize),
                        (1, 1, 1),
                        (1, 70, 256),
                        (2, 65, 96),
                        (5, 33, 131),
                        (7, 129, 384),
                        (13, 48, 4),
                        (70, 67, 648),
                        (395, 130, 64),
                    ]
                    .into_iter()
                    .enumerate()
                    {
                        let k = k.next_multiple_of(weight.cols_multiple());
                        let op = Matmul::new(n, k, x, weight);
                        check(&context, &Case { op, m }, i as u64);
                    }
                }
            }
        }
    }

    #[test]
    fn integers_give_the_same_sums_everywhere() {
        for weight in WeightFormat::ALL {
            let k = 520usize.next_multiple_of(weight.cols_multiple());
            for m in [1, 5, 30] {
                let op = Matmul::new(70, k, DType::F32, weight);
                let Some(block) = op.activation_block() else {
                    continue;
                };
                // With one scale of either factor, nothing is rounded but the product with these.
                let k = weight.group().map_or(block, |group| group.min(block));
                let op = Matmul { k, ..op };
                let case = Case { op, m };
                let all: Vec<_> = of_products(all_levels(), Activations::Int8)
                    .iter()
                    .map(|c| launch(c, &case, 5).got)
                    .collect();
                assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "{case:?}");
            }
        }
    }

    #[test]
    fn rows_do_not_depend_on_their_neighbours() {
        // Fewer rows than one tile has, two tiles, many: all ways through the weight.
        let rows = [1, 5, 11, 40];
        for context in [Activations::Float, Activations::Int8]
            .into_iter()
            .flat_map(|activations| of_products(levels(), activations))
        {
            for weight in WeightFormat::ALL {
                for x in [DType::F32, DType::BF16] {
                    let k = 520usize.next_multiple_of(weight.cols_multiple());
                    let op = Matmul::new(70, k, x, weight);
                    let first_row = |m| {
                        let case = Case { op: op.clone(), m };
                        launch(&context, &case, 3).got[..op.n].to_vec()
                    };
                    let alone = first_row(rows[0]);
                    for m in rows {
                        assert_eq!(first_row(m), alone, "{op:?}, {m} rows");
                    }
                }
            }
        }
    }

    /// `x` in rows by `weight`, in f32.
    fn multiplied(context: &Context, weight: &HostWeight<'_>, x: &[f32]) -> Vec<f32> {
        let (n, k) = (weight.rows, weight.cols);
        let m = x.len() / k;
        let plan = context
            .plan(Matmul::new(n, k, DType::F32, weight.format))
            .unwrap();
        let weight = plan.pack(weight).unwrap();
        let device = context.device();
        let (from, to) = (
            device.alloc(4 * m * k).unwrap(),
            device.alloc(4 * m * n).unwrap(),
        );
        let mut stream = device.stream().unwrap();
        let (x_shape, out_shape) = ([m, k], [m, n]);
        let x_view = View::new(&from, DType::F32, &x_shape).unwrap();
        stream.upload(&x_view, bytemuck::cast_slice(x)).unwrap();
        let args = MatmulArgs {
            out: View::new(&to, DType::F32, &out_shape).unwrap(),
            x: x_view,
            weight: View::of_bytes(&weight),
            bias: None,
            residual: None,
        };
        let bytes = plan.workspace_bytes(&[args.out.shape(), args.x.shape()]);
        let workspace = device.alloc(bytes).unwrap();
        plan.run(&mut *stream, args, &View::of_bytes(&workspace))
            .unwrap();
        let mut got = vec![0.0f32; m * n];
        let bytes = bytemuck::cast_slice_mut(&mut got);
        stream.download(bytes, &View::of_bytes(&to)).unwrap();
        got
    }

    #[test]
    fn what_is_no_number_stays_none() {
        for context in of_products(levels(), Activations::Int8) {
            for (bad, at) in [(f32::NAN, 3), (f32::INFINITY, 200), (f32::NEG_INFINITY, 0)] {
                let op = Matmul::new(20, 256, DType::F32, WeightFormat::Int8Row);
                let mut x = vec![1.0f32; 512];
                x[at] = bad;
                let weight = host_weight(&op, &mut Random::new(1));
                let got = multiplied(&context, &weight, &x);
                assert!(got[..20].iter().all(|y| y.is_nan()), "{bad}");
                assert!(got[20..].iter().all(|y| y.is_finite()), "{bad}");
            }
        }
    }

    /// Where sums are short integers, these are the longest: every product as large as it can be, and of one sign.
    #[test]
    fn the_largest_integers_do_not_overflow() {
        let (n, k) = (20, 512);
        for context in of_products(levels(), Activations::Int8) {
            for format in [
                WeightFormat::Int4Row,
                WeightFormat::Int4Group(32),
                WeightFormat::Int8Row,
                WeightFormat::Int8Group(32),
            ] {
                for w in [-1.0f32, 1.0] {
                    let data: Vec<u8> = (0..n * k).flat_map(|_| w.to_le_bytes()).collect();
                    let dense = WeightFormat::Dense(DType::F32);
                    let dense = HostWeight::new(dense, n, k, data, vec![]).unwrap();
                    let weight = dense.convert(format).unwrap();
                    // A row of its own, and enough of them for blocks that are decoded first.
                    for m in [1, 20] {
                        for x in [-1.0f32, 1.0] {
                            let want = w * x * k as f32;
                            let got = multiplied(&context, &weight, &vec![x; m * k]);
                            let near = |y: &f32| (y - want).abs() < 1e-3 * k as f32;
                            assert!(got.iter().all(near), "{format}, {m} rows: {got:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn odd_lengths_and_nothing_at_all() {
        for context in of_products(levels(), Activations::Float) {
            for weight in [
                WeightFormat::Dense(DType::F32),
                WeightFormat::Dense(DType::F16),
                WeightFormat::Dense(DType::BF16),
                WeightFormat::Int8Row,
                WeightFormat::Int4Row,
            ] {
                for x in [DType::F32, DType::BF16] {
                    for (m, n, k) in [
                        (0, 5, 8),
                        (1, 1, 1),
                        (4, 17, 67),
                        (9, 3, 0),
                        (1, 66, 131),
                        (23, 70, 9),
                    ] {
                        let k = k * weight.cols_multiple();
                        let op = Matmul {
                            bias: true,
                            residual: true,
                            ..Matmul::new(n, k, x, weight)
                        };
                        check(&context, &Case { op, m }, k as u64);
                    }
                }
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let level = crate::Isa::detect().level();
        let [one, three] = [1, 3].map(|threads| context(level, threads));
        for weight in WeightFormat::ALL {
            for m in [1, 6, 9, 40] {
                let op = Matmul::new(200, 384, DType::BF16, weight);
                let case = Case { op, m };
                assert_eq!(launch(&one, &case, 3).bytes, launch(&three, &case, 3).bytes);
            }
        }
    }

    #[test]
    fn a_foreign_weight_is_refused() {
        let context = context(Level::Scalar, 1);
        let device = context.device();
        let plan = context
            .plan(Matmul::new(3, 4, DType::F32, WeightFormat::Int8Row))
            .unwrap();
        let buffer = device.alloc(4096).unwrap();
        let (x, out) = (device.alloc(16).unwrap(), device.alloc(12).unwrap());
        let args = MatmulArgs {
            out: View::new(&out, DType::F32, &[1, 3]).unwrap(),
            x: View::new(&x, DType::F32, &[1, 4]).unwrap(),
            weight: View::new(&buffer, DType::U8, &[12]).unwrap(),
            bias: None,
            residual: None,
        };
        let mut stream = device.stream().unwrap();
        let e = plan
            .run(&mut *stream, args, &View::of_bytes(&buffer))
            .unwrap_err();
        assert!(e.to_string().contains("expected 64 B packed"), "{e}");
    }

    #[test]
    fn every_epilogue_and_output_type() {
        for context in of_products(levels(), Activations::Float) {
            for activation in Act::ALL.map(Some).into_iter().chain([None]) {
                for (x, out) in [
                    (DType::BF16, DType::F32),
                    (DType::F32, DType::BF16),
                    (DType::F16, DType::F16),
                    (DType::F32, DType::F16),
                ] {
                    for bias in [false, true] {
                        for residual in [false, true] {
                            let weight = WeightFormat::Int4Group(32);
                            let op = Matmul {
                                out,
                                bias,
                                activation,
                                residual,
                                ..Matmul::new(35, 64, x, weight)
                            };
                            check(
                                &context,
                                &Case {
                                    op: op.clone(),
                                    m: 2,
                                },
                                7,
                            );
                            check(&context, &Case { op, m: 8 }, 8);
                        }
                    }
                }
            }
        }
    }
}
