//! Draws the next token, on the device: penalty, stable sort, softmax, running sums, and Philox by operations on integers.

use hal::Result;
use ops::Sample;

use crate::arguments::{Integers, Scalar};
use crate::planned::{Npu, Planned};
use crate::run::{Run, call};
use crate::tensor::{Kind, Tensor};

pub(crate) fn plan(npu: &Npu, op: &Sample) -> Planned {
    let vocab = op.vocab;
    if i32::try_from(vocab).is_err() {
        return Ok(None);
    }
    let (logits, floats, ints): (&[usize], &[usize], &[usize]) = (&[1, vocab], &[1, 3], &[1, 4]);
    let example = [&[1][..], logits, floats, ints, &[1, 1], &[1]];
    npu.plan(op, &example, move |run, args| {
        let [out, logits, floats, ints, history, history_len] =
            args.try_into().expect("counted by check_args");
        let rows = out.dim(0);
        if rows == 0 {
            return Ok(());
        }
        let [temperature, top_p, penalty] = [0, 1, 2].map(|i| floats.slice(1, i, 1));
        let penalised = penalise(run, logits, penalty, history, history_len)?;
        let sorted = run.piece(Kind::F32, &[rows, vocab]);
        let order = run.piece(Kind::I64, &[rows, vocab]);
        call!(run, Sort(penalised, true, 1, true, sorted, order))?;
        let greedy = run.piece(Kind::Bool, &[rows, 1]);
        call!(run, EqScalar(temperature, Scalar::F32(0.0), greedy))?;
        let (ones, divisor) = (
            run.piece(Kind::F32, &[rows, 1]),
            run.piece(Kind::F32, &[rows, 1]),
        );
        run.fill(ones, Scalar::F32(1.0))?;
        call!(run, SWhere(greedy, ones, temperature, divisor))?;
        call!(run, Div(sorted, divisor, sorted))?;
        let kept = kept(run, ints.slice(1, 0, 1), vocab)?;
        let u = uniform(run, ints)?;
        let rank = draw(run, sorted, kept, top_p, u)?;
        let drawn = run.piece(Kind::I64, &[rows, 1]);
        call!(run, Gather(order, 1, rank, drawn))?;
        let chosen = run.piece(Kind::I64, &[rows, 1]);
        call!(run, SWhere(greedy, order.slice(1, 0, 1), drawn, chosen))?;
        run.cast(out.unsqueeze(1), chosen)
    })
}

/// The logits `[rows, vocab]`, those of ids in the history with the penalty.
fn penalise(
    run: &mut Run<'_>,
    logits: Tensor,
    penalty: Tensor,
    history: Tensor,
    history_len: Tensor,
) -> Result<Tensor> {
    let (rows, vocab, capacity) = (logits.dim(0), logits.dim(1), history.dim(1));
    // A column more, for ids that do not count.
    let all = run.piece(Kind::F32, &[rows, vocab + 1]);
    let penalised = all.slice(1, 0, vocab);
    run.fill(all.slice(1, vocab, 1), Scalar::F32(0.0))?;
    run.cast(penalised, logits)?;
    if capacity == 0 {
        return Ok(penalised);
    }
    run.scope(|run| {
        let shape = [rows, capacity];
        let inside = run.piece(Kind::I32, &shape);
        let last = Scalar::I32((vocab - 1) as i32);
        call!(run, Clamp(history, Scalar::I32(0), last, inside))?;
        let [known, counts, both] = [0; 3].map(|_| run.piece(Kind::Bool, &shape));
        call!(run, EqTensor(history, inside, known))?;
        let place = run.count(capacity, 1)?;
        call!(
            run,
            LtTensor(place.unsqueeze(0), history_len.unsqueeze(1), counts)
        )?;
        call!(run, LogicalAnd(known, counts, both))?;
        let [nowhere, id] = [0; 2].map(|_| run.piece(Kind::I32, &shape));
        run.fill(nowhere, Scalar::I32(vocab as i32))?;
        call!(run, SWhere(both, inside, nowhere, id))?;
        let id = run.as_kind(id, Kind::I64)?;
        let [old, divided, multiplied, new] = [0; 4].map(|_| run.piece(Kind::F32, &shape));
        call!(run, Gather(all, 1, id, old))?;
        call!(run, Div(old, penalty, divided))?;
        call!(run, Mul(old, penalty, multiplied))?;
        let (zero, positive) = (run.piece(Kind::F32, &[1, 1]), run.piece(Kind::Bool, &shape));
        run.fill(zero, Scalar::F32(0.0))?;
        call!(run, GtTensor(old, zero, positive))?;
        call!(run, SWhere(positive, divided, multiplied, new))?;
        // An id that comes twice is given the same number twice.
        call!(run, InplaceScatter(all, 1, id, new, 0))
    })?;
    Ok(penalised)
}

/// Whether top-k leaves a rank: bool `[rows, vocab]`.
fn kept(run: &mut Run<'_>, top_k: Tensor, vocab: usize) -> Result<Tensor> {
    let rows = top_k.dim(0);
    // Beyond 2³¹ it has become negative: that is none too.
    let limit = run.piece(Kind::I32, &[rows, 1]);
    let most = Scalar::I32(i32::MAX);
    call!(run, Clamp(top_k, Scalar::I32(0), most, limit))?;
    let no_limit = run.piece(Kind::Bool, &[rows, 1]);
    call!(run, EqScalar(limit, Scalar::I32(0), no_limit))?;
    let (all, k) = (
        run.piece(Kind::I32, &[rows, 1]),
        run.piece(Kind::I32, &[rows, 1]),
    );
    run.fill(all, Scalar::I32(vocab as i32))?;
    call!(run, SWhere(no_limit, all, limit, k))?;
    let rank = run.count(vocab, 1)?;
    let kept = run.piece(Kind::Bool, &[rows, vocab]);
    call!(run, LtTensor(rank.unsqueeze(0), k, kept))?;
    Ok(kept)
}

/// The rank that is drawn of logits in descending order: i64 `[rows, 1]`.
fn draw(
    run: &mut Run<'_>,
    sorted: Tensor,
    kept: Tensor,
    top_p: Tensor,
    u: Tensor,
) -> Result<Tensor> {
    let (rows, vocab) = (sorted.dim(0), sorted.dim(1));
    let shape = [rows, vocab];
    let (dropped, no) = (
        run.piece(Kind::Bool, &shape),
        run.piece(Kind::Bool, &[1, 1]),
    );
    run.fill(no, Scalar::I32(0))?;
    call!(run, EqTensor(kept, no, dropped))?;
    let never = Scalar::F32(f32::NEG_INFINITY);
    call!(run, InplaceMaskedFillScalar(sorted, dropped, never))?;
    let [p, sums] = [0; 2].map(|_| run.piece(Kind::F32, &shape));
    call!(run, Softmax(sorted, 1, p))?;
    call!(run, Cumsum(p, 1, Kind::F32, sums))?;
    // What stays: ranks with less than top-p before them, and the first.
    let before = run.piece(Kind::F32, &shape);
    run.fill(before.slice(1, 0, 1), Scalar::F32(0.0))?;
    run.cast(before.slice(1, 1, vocab - 1), sums.slice(1, 0, vocab - 1))?;
    let [below, stays] = [0; 2].map(|_| run.piece(Kind::Bool, &shape));
    call!(run, LtTensor(before, top_p, below))?;
    call!(run, LogicalAnd(below, kept, stays))?;
    let stays = run.as_kind(stays, Kind::F32)?;
    run.fill(stays.slice(1, 0, 1), Scalar::F32(1.0))?;
    let reached = before;
    call!(run, Mul(sums, stays, reached))?;
    let [staying, total, target, further] = [0; 4].map(|_| run.piece(Kind::F32, &[rows, 1]));
    let columns = Integers(&[1]);
    call!(run, ReduceSum(stays, columns, true, Kind::F32, staying))?;
    call!(run, Amax(reached, columns, true, total))?;
    call!(run, Mul(total, u, target))?;
    // The first whose sum is beyond the target has as many before it as are not beyond it.
    call!(run, GtTensor(reached, target, below))?;
    let beyond = run.as_kind(below, Kind::F32)?;
    call!(run, ReduceSum(beyond, columns, true, Kind::F32, further))?;
    let one = Scalar::F32(1.0);
    call!(run, Sub(staying, further, one, further))?;
    call!(run, Adds(staying, Scalar::F32(-1.0), one, staying))?;
    call!(run, Minimum(further, staying, further))?;
    run.as_kind(further, Kind::I64)
}

/// The factors of Philox4x32, and what its keys grow by.
const FACTORS: [i64; 2] = [0xD251_1F53, 0xCD9E_8D57];
const GROWTH: [i64; 2] = [0x9E37_79B9, 0xBB67_AE85];
const WORD: Scalar = Scalar::I64(0xffff_ffff);
const HALF: Scalar = Scalar::I64(0xffff);
const SHIFT: Scalar = Scalar::I64(0x1_0000);

/// Numbers in [0, 1), f32 `[rows, 1]`: of Philox4x32-10 with the seed as key and the step as counter.
///
/// Words are integers of 64 bits below 2³². Products are made of halves, so that nothing overflows.
fn uniform(run: &mut Run<'_>, ints: Tensor) -> Result<Tensor> {
    let rows = ints.dim(0);
    let words = run.as_kind(ints, Kind::I64)?;
    // Of the generator's words the even ones, the odd ones, and the keys.
    let [mut even, mut odd, key] = [0; 3].map(|_| run.piece(Kind::I64, &[rows, 2]));
    let [factors, growth] = [0; 2].map(|_| run.piece(Kind::I64, &[1, 2]));
    for i in 0..2 {
        run.fill(factors.slice(1, i, 1), Scalar::I64(FACTORS[i]))?;
        run.fill(growth.slice(1, i, 1), Scalar::I64(GROWTH[i]))?;
    }
    run.fill(even, Scalar::I64(0))?;
    run.fill(odd, Scalar::I64(0))?;
    call!(
        run,
        BitwiseAndScalar(words.slice(1, 3, 1), WORD, even.slice(1, 0, 1))
    )?;
    call!(run, BitwiseAndScalar(words.slice(1, 1, 2), WORD, key))?;
    let one = Scalar::I64(1);
    let [low, high, sum, rest] = [0; 4].map(|_| run.piece(Kind::I64, &[rows, 2]));
    let [mut even_next, mut odd_next] = [0; 2].map(|_| run.piece(Kind::I64, &[rows, 2]));
    for _ in 0..10 {
        // x · m = (high · m + low · m / 2¹⁶) · 2¹⁶ + low · m mod 2¹⁶
        call!(run, BitwiseAndScalar(even, HALF, low))?;
        call!(run, FloorDivides(even, SHIFT, high))?;
        call!(run, Mul(low, factors, low))?;
        call!(run, Mul(high, factors, high))?;
        call!(run, FloorDivides(low, SHIFT, rest))?;
        call!(run, Add(high, rest, one, sum))?;
        call!(run, FloorDivides(sum, SHIFT, high))?;
        call!(run, BitwiseAndScalar(sum, HALF, sum))?;
        call!(run, BitwiseAndScalar(low, HALF, low))?;
        for (to, from) in [(0, 1), (1, 0)] {
            let [low, sum, high] = [low, sum, high].map(|x| x.slice(1, from, 1));
            call!(run, Add(low, sum, SHIFT, odd_next.slice(1, to, 1)))?;
            call!(
                run,
                BitwiseXorTensor(high, odd.slice(1, to, 1), even_next.slice(1, to, 1))
            )?;
        }
        call!(run, BitwiseXorTensor(even_next, key, even_next))?;
        call!(run, Add(key, growth, one, key))?;
        call!(run, BitwiseAndScalar(key, WORD, key))?;
        std::mem::swap(&mut even, &mut even_next);
        std::mem::swap(&mut odd, &mut odd_next);
    }
    let top = run.piece(Kind::I64, &[rows, 1]);
    call!(
        run,
        FloorDivides(even.slice(1, 0, 1), Scalar::I64(256), top)
    )?;
    let u = run.as_kind(top, Kind::F32)?;
    let unit = Scalar::F32(1.0 / (1 << 24) as f32);
    call!(run, Muls(u, unit, u))?;
    Ok(u)
}
