//! Appends to a paged cache. No operator skips a token whose slot is none: such a token writes what another one writes, to the
//! same place; where no token has a slot, each writes what is there.

use hal::Result;
use ops::KvWrite;

use crate::arguments::Scalar;
use crate::planned::{Npu, Planned};
use crate::run::{Run, call};
use crate::tensor::{Kind, Tensor};

pub(crate) fn plan(npu: &Npu, op: &KvWrite) -> Planned {
    let KvWrite {
        kv_heads,
        head_dim,
        pages,
        page_size,
        kv,
        ..
    } = *op;
    let rows = pages
        .checked_mul(kv_heads)
        .and_then(|n| n.checked_mul(page_size));
    if !kv.is_float() || rows.is_none_or(|rows| i32::try_from(rows).is_err()) {
        return Ok(None);
    }
    let (cache, new): (&[usize], &[usize]) = (
        &[pages, kv_heads, page_size, head_dim],
        &[1, kv_heads, head_dim],
    );
    npu.plan(op, &[cache, cache, new, new, &[1]], move |run, args| {
        let [k_pages, v_pages, k, v, slots] = args.try_into().expect("counted by check_args");
        if k_pages.is_empty() || k.is_empty() {
            return Ok(());
        }
        let to = Slots::new(run, slots, [pages, kv_heads, page_size])?;
        to.write(run, k_pages, k)?;
        to.write(run, v_pages, v)
    })
}

/// Where tokens go.
struct Slots {
    /// For each token the one whose row it writes.
    source: Tensor,
    /// Whether that one has a slot.
    good: Tensor,
    /// Rows `[tokens · kv_heads]` of the cache.
    rows: Tensor,
}

impl Slots {
    fn new(
        run: &mut Run<'_>,
        slots: Tensor,
        [pages, kv_heads, page_size]: [usize; 3],
    ) -> Result<Self> {
        let n = slots.dim(0);
        let last = Scalar::I32((pages * page_size - 1) as i32);
        let inside = run.piece(Kind::I32, &[n]);
        call!(run, Clamp(slots, Scalar::I32(0), last, inside))?;
        let has = run.piece(Kind::Bool, &[n]);
        call!(run, EqTensor(slots, inside, has))?;
        // Of those that have a slot any one will do.
        let number = run.as_kind(has, Kind::F32)?;
        let some = run.piece(Kind::I32, &[1]);
        call!(run, ArgMax(number, 0, true, some))?;
        let own = run.count(n, 1)?;
        let [source, slot] = [0; 2].map(|_| run.piece(Kind::I32, &[n]));
        let good = run.piece(Kind::Bool, &[n]);
        call!(run, SWhere(has, own, some, source))?;
        call!(run, IndexSelect(inside, 0, source, slot))?;
        call!(run, IndexSelect(has, 0, source, good))?;
        // The row of head 0: page · heads · page_size + slot mod page_size.
        let page = run.piece(Kind::I32, &[n]);
        call!(run, FloorDivides(slot, Scalar::I32(page_size as i32), page))?;
        let further = Scalar::I32(((kv_heads - 1) * page_size) as i32);
        let first = run.piece(Kind::I32, &[n]);
        call!(run, Add(slot, page, further, first))?;
        let head = run.count(kv_heads, page_size)?;
        let rows = run.piece(Kind::I32, &[n, kv_heads]);
        let one = Scalar::I32(1);
        call!(run, Add(first.unsqueeze(1), head.unsqueeze(0), one, rows))?;
        Ok(Self {
            source,
            good,
            rows: rows.reshape(&[n * kv_heads]),
        })
    }

    fn write(&self, run: &mut Run<'_>, cache: Tensor, x: Tensor) -> Result<()> {
        run.scope(|run| {
            let [n, heads, dim] = [0, 1, 2].map(|i| x.dim(i));
            let taken = run.piece(x.kind, &[n, heads, dim]);
            call!(run, IndexSelect(x, 0, self.source, taken))?;
            let new = run.as_kind(taken, cache.kind)?;
            let flat = cache.reshape(&[cache.len() / dim, dim]);
            let [old, row] = [0; 2].map(|_| run.piece(cache.kind, &[n * heads, dim]));
            call!(run, IndexSelect(flat, 0, self.rows, old))?;
            let shape = [n, heads, dim];
            let (old3, row3) = (old.reshape(&shape), row.reshape(&shape));
            let good = self.good.unsqueeze(1).unsqueeze(2);
            call!(run, SWhere(good, new, old3, row3))?;
            call!(run, InplaceIndexCopy(flat, 0, self.rows, row))
        })
    }
}
