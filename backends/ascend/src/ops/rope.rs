//! Rotary position embedding, in f32: the library's operators take whole heads of 128 elements, and tables of their type.

use ops::{Rope, RopeLayout};

use super::embedding::clamped;
use crate::arguments::Scalar;
use crate::planned::{Npu, Planned};
use crate::run::call;
use crate::tensor::Kind;

pub(crate) fn plan(npu: &Npu, op: &Rope) -> Planned {
    let Rope {
        head_dim,
        rotary_dim,
        streams,
        layout,
        ..
    } = *op;
    let (part, pairs) = (head_dim / streams.max(1), rotary_dim / 2);
    let (x, table): (&[usize], &[usize]) = (&[1, 1, head_dim], &[1, pairs]);
    let example = [x, x, &[streams, 1], table, table];
    npu.plan(op, &example, move |run, args| {
        let [out, x, positions, cos, sin] = args.try_into().expect("counted by check_args");
        if out.is_empty() {
            return Ok(());
        }
        let [n, heads, _] = [0, 1, 2].map(|i| x.dim(i));
        let wide = run.piece(Kind::F32, &[n, heads, head_dim]);
        run.cast(wide, x)?;
        for stream in 0..if pairs == 0 { 0 } else { streams } {
            let position = positions.slice(0, stream, 1).squeezed();
            run.scope(|run| {
                let position = clamped(run, position, cos.dim(0))?;
                let [c, s] = [0; 2].map(|_| run.piece(Kind::F32, &[n, pairs]));
                call!(run, Embedding(cos, position, c))?;
                call!(run, Embedding(sin, position, s))?;
                let [c, s] = [c, s].map(|table| table.unsqueeze(1));
                let at = stream * part;
                let [a, b] = match layout {
                    RopeLayout::Interleaved => [0, 1].map(|i| wide.every(2, at + i, 2, pairs)),
                    RopeLayout::HalfSplit => [0, pairs].map(|i| wide.slice(2, at + i, pairs)),
                };
                let products = [(a, c), (b, s), (b, c), (a, s)];
                let mut turned = products.map(|_| run.piece(Kind::F32, &[n, heads, pairs]));
                for ((x, table), to) in products.into_iter().zip(&mut turned) {
                    call!(run, Mul(x, table, *to))?;
                }
                let [ac, bs, bc, as_] = turned;
                let one = Scalar::F32(1.0);
                call!(run, Sub(ac, bs, one, a))?;
                call!(run, Add(bc, as_, one, b))
            })?;
        }
        run.cast(out, wide)
    })
}
