//! Attention over a paged cache: a prompt that sees itself, and single tokens over long caches.

use hal::{DType, Result, Stream};
use ops::{Attention, Context, Mask};

use super::Operation;
use super::operation::{COLD_BYTES, MOST_COPIES, Placed, expect_room};
use crate::architecture::Architecture;
use crate::cache::page_size;

/// `tokens` new tokens of each of `batch` sequences, which with them have `slots` slots.
pub(super) fn attend(
    context: &Context,
    stream: &mut dyn Stream,
    a: &Architecture,
    dtype: DType,
    [batch, tokens, slots]: [usize; 3],
) -> Result<Operation> {
    let device = &**context.device();
    let (heads, kv_heads, head_dim) = (a.heads, a.kv_heads, a.head_dim);
    let page_size = page_size(device.info(), batch == 1, slots);
    let per_sequence = slots.div_ceil(page_size);
    let page_bytes = 2 * kv_heads * page_size * head_dim * dtype.bytes();
    // One token reads the cache once: launches take turns with caches, so that it lies in memory. Many read it often.
    let copies = match tokens {
        1 => COLD_BYTES
            .div_ceil(batch * per_sequence * page_bytes)
            .min(MOST_COPIES),
        _ => 1,
    };
    let pages = copies * batch * per_sequence;
    let rows_bytes = 2 * batch * tokens * heads * head_dim * dtype.bytes();
    expect_room(context, "attend", pages * page_bytes + rows_bytes)?;
    let plan = context.plan(Attention {
        heads,
        kv_heads,
        head_dim,
        pages,
        page_size,
        scale: 1.0 / (head_dim as f32).sqrt(),
        mask: Mask::Causal,
        dtype,
        kv: dtype,
    })?;
    let rows = [batch * tokens, heads, head_dim];
    let cache = [pages, kv_heads, page_size, head_dim];
    let table: Vec<i32> = (0..pages as i32).collect();
    let table = Placed::integers(device, stream, &[pages], &table)?;
    let starts: Vec<i32> = (0..=batch).map(|s| (s * tokens) as i32).collect();
    let (table, _) = &table.places[0];
    let turns = (0..copies).map(|c| (table.clone(), 4 * c * batch * per_sequence));
    let args = vec![
        Placed::unwritten(device, dtype, &rows)?,
        Placed::random(device, stream, dtype, &rows)?,
        Placed::random(device, stream, dtype, &cache)?,
        Placed::random(device, stream, dtype, &cache)?,
        Placed {
            places: turns.collect(),
            dtype: DType::I32,
            shape: vec![batch, per_sequence],
        },
        Placed::integers(device, stream, &[batch + 1], &starts)?,
        Placed::integers(device, stream, &[batch], &vec![slots as i32; batch])?,
    ];
    stream.synchronize()?;
    // Pairs of a token and a slot that it sees.
    let pairs = batch * tokens * (2 * slots + 1 - tokens) / 2;
    let read = 2 * batch * slots * kv_heads * head_dim * dtype.bytes();
    let operations = 4.0 * pairs as f64 * (heads * head_dim) as f64;
    Operation::new(
        context,
        &plan,
        args,
        [(read + rows_bytes) as f64, operations],
    )
}
