//! What memory bounds: copies, norms, rotations and activations of many rows.

use hal::{DType, Result, Stream};
use ops::{
    Activation, AddLayerNorm, AddRmsNorm, Context, Glu, LayerNorm, Op, Plan, RmsNorm, Rope,
    StridedCopy,
};

use super::Operation;
use super::operation::{Placed, expect_room};
use crate::architecture::{Architecture, Norm};

/// Rows copied.
pub(super) fn copied(
    context: &Context,
    stream: &mut dyn Stream,
    dtype: DType,
    shape: [usize; 2],
) -> Result<Operation> {
    let plan = context.plan(StridedCopy { dtype })?;
    row_by_row(context, stream, &plan, [shape; 2], [1, 1], 0, 0.0)
}

/// The norm of a model.
pub(super) fn normalised(
    context: &Context,
    stream: &mut dyn Stream,
    a: &Architecture,
    dtype: DType,
    rows: usize,
) -> Result<Operation> {
    let (dim, shapes) = (a.hidden, [[rows, a.hidden]; 2]);
    match a.norm {
        Norm::Rms(eps) => {
            let plan = context.plan(RmsNorm { dim, dtype, eps })?;
            row_by_row(context, stream, &plan, shapes, [1, 1], 1, 4.0)
        }
        Norm::Layer(eps) => {
            let plan = context.plan(LayerNorm { dim, dtype, eps })?;
            row_by_row(context, stream, &plan, shapes, [1, 1], 2, 7.0)
        }
    }
}

/// The same after a residual sum.
pub(super) fn added(
    context: &Context,
    stream: &mut dyn Stream,
    a: &Architecture,
    dtype: DType,
    rows: usize,
) -> Result<Operation> {
    let (dim, alpha, shapes) = (a.hidden, 1.0, [[rows, a.hidden]; 2]);
    match a.norm {
        Norm::Rms(eps) => {
            let plan = context.plan(AddRmsNorm {
                dim,
                dtype,
                eps,
                alpha,
            })?;
            row_by_row(context, stream, &plan, shapes, [2, 2], 1, 6.0)
        }
        Norm::Layer(eps) => {
            let plan = context.plan(AddLayerNorm {
                dim,
                dtype,
                eps,
                alpha,
            })?;
            row_by_row(context, stream, &plan, shapes, [2, 2], 2, 9.0)
        }
    }
}

/// What is between the two matrices of the MLP.
pub(super) fn activated(
    context: &Context,
    stream: &mut dyn Stream,
    a: &Architecture,
    dtype: DType,
    rows: usize,
) -> Result<Operation> {
    let (act, dim) = (a.act, a.ffn);
    match a.gate {
        Some(gate) => {
            let plan = context.plan(Glu {
                dim,
                act,
                gate,
                limit: None,
                dtype,
            })?;
            let shapes = [[rows, dim], [rows, 2 * dim]];
            row_by_row(context, stream, &plan, shapes, [1, 1], 0, 10.0)
        }
        None => {
            let plan = context.plan(Activation { act, dtype })?;
            row_by_row(context, stream, &plan, [[rows, dim]; 2], [1, 1], 0, 20.0)
        }
    }
}

/// Queries and keys turned where they lie.
pub(super) fn turned(
    context: &Context,
    stream: &mut dyn Stream,
    op: Rope,
    [tokens, heads]: [usize; 2],
) -> Result<Operation> {
    let device = &**context.device();
    let (pairs, streams, dtype) = (op.rotary_dim / 2, op.streams, op.dtype);
    let shape = [tokens, heads, op.head_dim];
    let turned = streams * op.rotary_dim;
    let bytes = 2 * tokens * heads * turned * dtype.bytes() + 8 * tokens * pairs;
    expect_room(context, "make operands", bytes)?;
    let plan = context.plan(op)?;
    let positions: Vec<i32> = (0..streams).flat_map(|_| 0..tokens as i32).collect();
    let x = Placed::random(device, stream, dtype, &shape)?;
    // One angle for all: what is turned again and again neither grows nor shrinks.
    let mut table = |value: f32| {
        Placed::floats(
            device,
            stream,
            &[tokens, pairs],
            &vec![value; tokens * pairs],
        )
    };
    let [cos, sin] = [table(0.8)?, table(0.6)?];
    let args = vec![
        x.clone(),
        x,
        Placed::integers(device, stream, &[streams, tokens], &positions)?,
        cos,
        sin,
    ];
    stream.synchronize()?;
    let operations = 3.0 * (tokens * heads * turned) as f64;
    Operation::new(context, &plan, args, [bytes as f64, operations])
}

/// `outs` outputs and `ins` inputs of their shapes, then `vectors` f32 vectors of the columns; `each` operations per element of
/// an output.
fn row_by_row<O: Op>(
    context: &Context,
    stream: &mut dyn Stream,
    plan: &Plan<O>,
    [out, x]: [[usize; 2]; 2],
    [outs, ins]: [usize; 2],
    vectors: usize,
    each: f64,
) -> Result<Operation> {
    let device = &**context.device();
    let dtype = plan.op().signature()[0].dtype;
    let (elements, dim) = (out[0] * out[1], out[1]);
    let moved = outs * elements + ins * x[0] * x[1];
    let bytes = moved * dtype.bytes() + 4 * vectors * dim;
    expect_room(context, "make operands", bytes)?;
    let mut args = Vec::with_capacity(outs + ins + vectors);
    for _ in 0..outs {
        args.push(Placed::unwritten(device, dtype, &out)?);
    }
    for _ in 0..ins {
        args.push(Placed::random(device, stream, dtype, &x)?);
    }
    for _ in 0..vectors {
        args.push(Placed::random(device, stream, DType::F32, &[dim])?);
    }
    stream.synchronize()?;
    let operations = each * elements as f64;
    Operation::new(context, plan, args, [bytes as f64, operations])
}
