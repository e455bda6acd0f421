//! Attention by the library's own operator, which takes half types on chips of the second generation. Elsewhere it composes.
//!
//! The operator takes lengths from the host, where they are in device memory here. It is told of all slots that the page table
//! has room for, and a mask made on the device hides those that are not in use: lengths may change between replays, and a batch
//! costs what its longest sequence does. Hidden slots are multiplied by zero, as in the composed form.
//!
//! A step of a token or less for each sequence is one call that reads the pages where they are. Others are a call for each
//! sequence, whose keys and values are gathered first: with many rows the operator wants pages of 128 slots.

use hal::{DType, Result};
use ops::{Attention, Op};

use super::embedding::clamped;
use super::mask::Rows;
use crate::arguments::{Absent, Alone, Integers, Scalar};
use crate::planned::{Npu, Planned};
use crate::run::{Run, call};
use crate::tensor::{Kind, Tensor};

/// Of what the operator takes.
const MAX_HEADS: usize = 256;
const MAX_GROUP: usize = 64;
const MAX_DIM: usize = 512;
const MAX_WIDTH: usize = 65_534;
const MAX_PAGE: usize = 512;
/// Elements of a head, and slots of a page, are multiples of this.
const UNIT: usize = 16;

/// How many neighbours a row sees to each side: all.
const ALL: i32 = i32::MAX;
/// Sums and exponentials in f32, and the same with rows that see nothing.
const PRECISE: i32 = 0;
const PRECISE_WITH_EMPTY_ROWS: i32 = 2;

pub(crate) fn plan(npu: &Npu, op: &Attention) -> Planned {
    if !npu.attention || !is_taken(op) {
        return Ok(None);
    }
    let q: &[usize] = &[1, op.heads, op.head_dim];
    let cache: &[usize] = &[op.pages, op.kv_heads, op.page_size, op.head_dim];
    let example: [&[usize]; 8] = [q, q, cache, cache, &[1, 1], &[2], &[1], &[1]];
    let fused = Fused(op.clone());
    npu.plan(op, &example[..op.signature().len()], move |run, args| {
        fused.run(run, args)
    })
}

/// Whether the operator takes it.
fn is_taken(op: &Attention) -> bool {
    let half = matches!(op.dtype, DType::F16 | DType::BF16) && op.kv == op.dtype;
    let heads = (1..=MAX_HEADS).contains(&op.heads)
        && op.heads.is_multiple_of(op.kv_heads)
        && op.heads / op.kv_heads <= MAX_GROUP;
    let dim = (1..=MAX_DIM).contains(&op.head_dim) && op.head_dim.is_multiple_of(UNIT);
    half && heads && dim && op.heads * op.head_dim <= MAX_WIDTH
}

struct Fused(Attention);

/// Keys and values, as the operator finds them.
struct Cache {
    k: Tensor,
    v: Tensor,
    /// The pages of each row, when they are not one after the other.
    table: Option<Tensor>,
}

impl Fused {
    fn run(&self, run: &mut Run<'_>, args: &[Tensor]) -> Result<()> {
        let (out, table) = (args[0], args[4]);
        if out.is_empty() {
            return Ok(());
        }
        if table.is_empty() || self.0.pages == 0 {
            return run.fill(out, Scalar::I32(0));
        }
        let paged = self.0.page_size.is_multiple_of(UNIT) && self.0.page_size <= MAX_PAGE;
        if run.checks() {
            run.scope(|run| self.each_token(run, args))?;
            return self.each_sequence(run, args);
        }
        match paged && out.dim(0) <= table.dim(0) {
            true => self.each_token(run, args),
            false => self.each_sequence(run, args),
        }
    }

    /// One call, in which each token is a sequence of its own, with the pages of the one that it belongs to.
    fn each_token(&self, run: &mut Run<'_>, args: &[Tensor]) -> Result<()> {
        let Attention {
            pages, page_size, ..
        } = self.0;
        let [out, q, k, v, table, q_start, kv_len] = args[..7].try_into().expect("checked");
        let prefix = args.get(7).copied();
        let (tokens, [sequences, max_pages]) = (out.dim(0), [0, 1].map(|i| table.dim(i)));
        let ids = table.reshape(&[sequences * max_pages]);
        let table = clamped(run, ids, pages)?.reshape(&[sequences, max_pages]);
        let first = q_start.slice(0, 0, sequences);
        let end = q_start.slice(0, 1, sequences);
        let one = Rows {
            first,
            end,
            kv_len,
            prefix,
        };
        let (rows, table) = match sequences {
            1 => (one, table),
            _ => {
                let own = owners(run, end, tokens)?;
                let mut of = |x: Tensor| -> Result<Tensor> {
                    let mut shape = x.lengths();
                    shape[0] = tokens;
                    let of_rows = run.piece(Kind::I32, &shape);
                    call!(run, IndexSelect(x, 0, own, of_rows))?;
                    Ok(of_rows)
                };
                let rows = Rows {
                    first: of(one.first)?,
                    end: of(one.end)?,
                    kv_len: of(one.kv_len)?,
                    prefix: one.prefix.map(&mut of).transpose()?,
                };
                (rows, of(table)?)
            }
        };
        let slots = max_pages * page_size;
        let hidden = rows.hidden(run, self.0.mask, tokens, slots)?;
        let q = run.dense(q)?;
        let apart = run.piece(out.kind, &out.lengths());
        let to = if out.is_contiguous() { out } else { apart };
        let cache = Cache {
            k,
            v,
            table: Some(table),
        };
        self.attend(run, to.unsqueeze(2), q.unsqueeze(2), &cache, hidden)?;
        clear(run, to, hidden)?;
        match to.address == out.address {
            true => Ok(()),
            false => run.cast(out, to),
        }
    }

    /// A call for each sequence, of all tokens, from which its own are kept.
    fn each_sequence(&self, run: &mut Run<'_>, args: &[Tensor]) -> Result<()> {
        let Attention {
            pages, page_size, ..
        } = self.0;
        let [out, q, k, v, table, q_start, kv_len] = args[..7].try_into().expect("checked");
        let (tokens, [sequences, max_pages]) = (out.dim(0), [0, 1].map(|i| table.dim(i)));
        let q = run.dense(q)?;
        let [apart, part] = [0; 2].map(|_| run.piece(out.kind, &out.lengths()));
        let whole = if out.is_contiguous() { out } else { apart };
        for s in 0..sequences {
            run.scope(|run| {
                let ids = clamped(run, table.slice(0, s, 1).squeezed(), pages)?;
                let cache = Cache {
                    k: self.gathered(run, k, ids)?,
                    v: self.gathered(run, v, ids)?,
                    table: None,
                };
                let rows = Rows {
                    first: q_start.slice(0, s, 1),
                    end: q_start.slice(0, s + 1, 1),
                    kv_len: kv_len.slice(0, s, 1),
                    prefix: args.get(7).map(|prefix| prefix.slice(0, s, 1)),
                };
                let slots = max_pages * page_size;
                let hidden = rows.hidden(run, self.0.mask, tokens, slots)?;
                let to = if s == 0 { whole } else { part };
                self.attend(run, to.unsqueeze(0), q.unsqueeze(0), &cache, hidden)?;
                if s == 0 {
                    return clear(run, whole, hidden);
                }
                let others = empty(hidden).unsqueeze(2);
                call!(run, SWhere(others, whole, part, whole))
            })?;
        }
        match whole.address == out.address {
            true => Ok(()),
            false => run.cast(out, whole),
        }
    }

    /// Pages one after the other: `[1, slots, kv_heads, head_dim]`.
    fn gathered(&self, run: &mut Run<'_>, cache: Tensor, ids: Tensor) -> Result<Tensor> {
        let Attention {
            kv_heads,
            head_dim,
            page_size,
            pages,
            ..
        } = self.0;
        let (n, page) = (ids.dim(0), kv_heads * page_size * head_dim);
        let taken = run.piece(cache.kind, &[n, page]);
        call!(
            run,
            IndexSelect(cache.reshape(&[pages, page]), 0, ids, taken)
        )?;
        let heads_last = taken
            .reshape(&[n, kv_heads, page_size, head_dim])
            .exchanged(1, 2);
        let slots = run.dense(heads_last)?;
        Ok(slots.reshape(&[1, n * page_size, kv_heads, head_dim]))
    }

    /// The operator: of a row for each sequence, whose pages are where they are, or of all rows of one, in the order of tokens.
    fn attend(
        &self,
        run: &mut Run<'_>,
        out: Tensor,
        q: Tensor,
        cache: &Cache,
        hidden: Tensor,
    ) -> Result<()> {
        macro_rules! fused {
            ($table:expr, $lengths:expr, $layout:expr, $page:expr, $precise:expr) => {
                call!(
                    run,
                    FusedInferAttentionScoreV2(
                        q,
                        Alone(cache.k),
                        Alone(cache.v),
                        Absent,
                        hidden,
                        Absent,
                        $lengths,
                        Absent,
                        Absent,
                        Absent,
                        Absent,
                        Absent,
                        Absent,
                        Absent,
                        $table,
                        Absent,
                        Absent,
                        Absent,
                        Absent,
                        Absent,
                        Absent,
                        Absent,
                        Absent,
                        Absent,
                        self.0.heads as i32,
                        f64::from(self.0.scale),
                        ALL,
                        ALL,
                        $layout,
                        self.0.kv_heads as i32,
                        0,
                        $precise,
                        $page,
                        0,
                        false,
                        0,
                        0,
                        out,
                        Absent,
                    )
                )
            };
        }
        match cache.table {
            Some(table) => {
                let lengths = [hidden.dim(1) as i64];
                let page = self.0.page_size as i32;
                fused!(table, Integers(&lengths), c"BNSD", page, PRECISE)
            }
            None => fused!(Absent, Absent, c"BSND", 0, PRECISE_WITH_EMPTY_ROWS),
        }
    }
}

/// The rows that see nothing: bool `[rows, 1]`.
fn empty(hidden: Tensor) -> Tensor {
    hidden.slice(1, 0, 1)
}

/// Zeros in the rows of `out` that see nothing.
fn clear(run: &mut Run<'_>, out: Tensor, hidden: Tensor) -> Result<()> {
    let none = empty(hidden).unsqueeze(2);
    call!(run, InplaceMaskedFillScalar(out, none, Scalar::F32(0.0)))
}

/// The sequence of each row, where sequences end at `ends`; of rows of none any one: i32 `[rows]`.
fn owners(run: &mut Run<'_>, ends: Tensor, rows: usize) -> Result<Tensor> {
    let sequences = ends.dim(0);
    let row = run.count(rows, 1)?;
    let after = run.piece(Kind::Bool, &[rows, sequences]);
    call!(run, GeTensor(row.unsqueeze(1), ends.unsqueeze(0), after))?;
    let number = run.as_kind(after, Kind::F32)?;
    let before = run.piece(Kind::F32, &[rows, 1]);
    call!(
        run,
        ReduceSum(number, Integers(&[1]), true, Kind::F32, before)
    )?;
    let before = run.as_kind(before, Kind::I32)?.reshape(&[rows]);
    clamped(run, before, sequences)
}
