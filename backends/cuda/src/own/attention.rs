//! Attention by the matrix units: a kernel for sequences with many rows, and one for those with few, which share a long cache
//! among groups and merge what these found.
//!
//! Which one a row takes depends on its own sequence alone, and so does its result, to the last bit; but where a launch has no
//! more tokens than sequences all of them go by the kernel for few, and a single sequence goes by its number of rows in the launch,
//! those of no sequence included.

use std::sync::Arc;

use backend_simt::kit::{
    ATTENTION_TILES, Call, Chip, DIALECT, EIGHT, Kernel, Planned, Queue, mask_code, native_with,
};
use backend_simt::{SimtDriver, Source};
use hal::{DType, Error, ErrorKind, Result, View};
use ops::Attention;

use super::x_is;

/// Slots of the cache that are in local memory at a time.
const SLOTS: usize = 64;

/// Work-items of a group.
const GROUP: usize = 128;

/// Groups on a multiprocessor.
const RESIDENT: usize = 2;

/// Tiles of sixteen rows that a warp has of many.
const WARP_TILES: usize = 2;

/// Rows of a group of many.
const MANY_ROWS: usize = GROUP / 32 * 16 * WARP_TILES;

/// The compute capability whose matrix units multiply from local memory (wgmma); later ones do not.
pub(super) const HOPPER: i32 = 90;

/// What the kernel for these has: work-items, elements of a head, and slots in local memory at a time, which are as many as
/// rows.
const HOPPER_GROUP: usize = 256;
const HOPPER_DIM: usize = 128;
const HOPPER_SLOTS: usize = MANY_ROWS;

/// Rows of a group of few.
const FEW_ROWS: usize = 16;

/// Rows of a sequence up to which they are few.
const MOST_ROWS: usize = 64;

/// Parts of a sequence's cache.
const PARTS: usize = 128;

/// Scratch memory of a launch of few, unless one sequence needs more; those of more memory are several launches.
const MOST_BYTES: usize = 128 << 20;

/// Elements of a row that a group merges.
const COLUMNS: usize = 32;

/// Groups of few for each multiprocessor; more take turns.
const GROUPS_EACH: usize = 4;

const MANY: Source = Source {
    name: "cuda_attention_many",
    parts: &[
        DIALECT,
        EIGHT,
        include_str!("../../kernels/mma.cuh"),
        ATTENTION_TILES,
        include_str!("../../kernels/attention.cuh"),
        include_str!("../../kernels/attention_many.cuh"),
    ],
    begins_early: true,
};

const FEW: Source = Source {
    name: "cuda_attention_few",
    parts: &[
        DIALECT,
        EIGHT,
        include_str!("../../kernels/mma.cuh"),
        include_str!("../../kernels/attention.cuh"),
        include_str!("../../kernels/attention_few.cuh"),
    ],
    begins_early: true,
};

const HOPPER_MANY: Source = Source {
    name: "cuda_attention_hopper",
    parts: &[
        DIALECT,
        EIGHT,
        include_str!("../../kernels/mma.cuh"),
        include_str!("../../kernels/wgmma.cuh"),
        ATTENTION_TILES,
        include_str!("../../kernels/attention.cuh"),
        include_str!("../../kernels/attention_hopper.cuh"),
    ],
    begins_early: true,
};

pub(super) fn plan<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &Attention, wgmma: bool) -> Planned {
    let known = matches!(op.dtype, DType::F16 | DType::BF16) && op.kv == op.dtype;
    // Rows of the cache are numbered by 31 bits; of scores only the largest is looked for, which a positive scale leaves it.
    let cache_rows = [op.kv_heads, op.page_size]
        .iter()
        .try_fold(op.pages, |rows, &n| rows.checked_mul(n));
    let numbered = cache_rows.is_some_and(|n| i32::try_from(n).is_ok());
    let sizes = op.page_size > 0 && op.kv_heads > 0 && i32::try_from(op.page_size).is_ok();
    let scaled = op.scale > 0.0 && op.scale.is_finite();
    if !known || !numbered || !sizes || !scaled || !matches!(op.head_dim, 64 | 128) {
        return Ok(None);
    }
    let slot_bytes = 2 * op.head_dim;
    let define = |extra: &[(&'static str, usize)]| -> Vec<(&'static str, String)> {
        let own = [
            ("X", op.dtype.to_string()),
            x_is(op.dtype),
            ("HD", op.head_dim.to_string()),
        ];
        let extra = extra.iter().map(|&(name, n)| (name, n.to_string()));
        own.into_iter().chain(extra).collect()
    };
    let many = if wgmma && op.head_dim == HOPPER_DIM {
        // Tiles begin at multiples of 1024 bytes.
        let bytes = slot_bytes * (MANY_ROWS + 4 * HOPPER_SLOTS) + 1024;
        let defines = define(&[
            ("SLOTS", HOPPER_SLOTS),
            ("PANEL_ROWS", HOPPER_SLOTS),
            ("RESIDENT", 1),
            ("LOCAL_BYTES", bytes),
        ]);
        let name = "attention_hopper";
        chip.kernel_with_local(&HOPPER_MANY, name, HOPPER_GROUP, bytes, &defines)?
    } else {
        let bytes = slot_bytes * (MANY_ROWS + 3 * SLOTS);
        let defines = define(&[
            ("SLOTS", SLOTS),
            ("TILES", WARP_TILES),
            ("RESIDENT", RESIDENT),
            ("LOCAL_BYTES", bytes),
        ]);
        chip.kernel_with_local(&MANY, "attention_many", GROUP, bytes, &defines)?
    };
    let bytes = slot_bytes * 6 * SLOTS;
    let defines = define(&[
        ("SLOTS", SLOTS),
        ("PARTS", PARTS),
        ("RESIDENT", RESIDENT),
        ("LOCAL_BYTES", bytes),
    ]);
    let kernels = Kernels {
        many,
        few: chip.kernel_with_local(&FEW, "attention_few", GROUP, bytes, &defines)?,
        merge: chip.kernel(&FEW, "attention_merge", GROUP, &defines)?,
    };
    let sharing = Sharing {
        heads: op.heads,
        share: op.heads / op.kv_heads,
        head_dim: op.head_dim,
        page_size: op.page_size,
        enough: GROUPS_EACH * chip.driver().limits().parallelism.max(1),
    };
    let op = op.clone();
    let workspace_bytes =
        move |shapes: &[&[usize]]| sharing.workspace_bytes(shapes[1][0], shapes[4]);
    native_with(chip, workspace_bytes, move |queue, args, workspace| {
        let (tokens, table) = (args[1].dim(0), args[4].shape());
        if tokens == 0 {
            return Ok(());
        }
        if args[2..4]
            .iter()
            .any(|pages| !pages.offset_bytes().is_multiple_of(16))
        {
            let why = "the cache begins at no multiple of 16 bytes";
            return Err(
                Error::new(ErrorKind::InvalidArgument, "launch attention", why)
                    .next_step("give it memory of its own"),
            );
        }
        let launch = Launch {
            op: &op,
            args,
            tokens,
            sequences: table[0],
        };
        let split = sharing.split(tokens, table);
        if let Some(least) = split.many {
            launch.many(queue, &kernels.many, sharing, least)?;
        }
        if split.many.is_none() && split.few == 0 {
            return launch.few(queue, &kernels, sharing, split, [0, 0], workspace);
        }
        for first in (0..split.few).step_by(split.at_once.max(1)) {
            let count = split.at_once.min(split.few - first);
            launch.few(queue, &kernels, sharing, split, [first, count], workspace)?;
        }
        Ok(())
    })
}

struct Kernels<D: SimtDriver> {
    many: Kernel<D>,
    few: Kernel<D>,
    merge: Kernel<D>,
}

/// How the sequences of a launch are divided among the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Split {
    /// Tokens from which on a sequence goes by the kernel for many; `None`: none does.
    many: Option<usize>,
    /// Sequences that are looked at by the kernel for few.
    few: usize,
    /// How many of these in one launch.
    at_once: usize,
    /// Tokens up to which a sequence goes by that kernel.
    most: usize,
    /// Parts of the longest cache that the table has room for.
    parts: usize,
}

/// What decides it: the heads, and the device.
#[derive(Clone, Copy, Debug)]
struct Sharing {
    heads: usize,
    /// Query heads of a key-value head.
    share: usize,
    head_dim: usize,
    page_size: usize,
    /// Groups that keep the device busy.
    enough: usize,
}

impl Sharing {
    /// Tokens of a sequence up to which its rows are few.
    fn most_tokens(self) -> usize {
        (MOST_ROWS / self.share).max(1)
    }

    /// Bytes of the parts of a token: their values, maxima and sums, and what keeps rows at multiples of 16 bytes.
    fn token_bytes(self, parts: usize) -> usize {
        match parts {
            0 | 1 => 0,
            _ => 4 * self.heads * parts * (self.head_dim + 4),
        }
    }

    fn parts(self, max_pages: usize) -> usize {
        (max_pages * self.page_size).div_ceil(SLOTS).clamp(1, PARTS)
    }

    /// Of a launch with `tokens` tokens and a table of this shape.
    fn split(self, tokens: usize, table: &[usize]) -> Split {
        let (sequences, parts) = (table[0], self.parts(table[1]));
        let (few, token_bytes) = (self.most_tokens(), self.token_bytes(parts));
        let fits = tokens * token_bytes <= self.most_bytes(token_bytes);
        if tokens <= few || (tokens <= sequences && fits) {
            return Split {
                many: None,
                few: sequences,
                at_once: sequences,
                most: tokens,
                parts,
            };
        }
        if sequences < 2 {
            return Split {
                many: Some(0),
                few: 0,
                at_once: 0,
                most: 0,
                parts,
            };
        }
        Split {
            many: Some(few + 1),
            few: sequences,
            at_once: match token_bytes {
                0 => sequences,
                _ => (self.most_bytes(token_bytes) / (few * token_bytes)).min(sequences),
            },
            most: few,
            parts,
        }
    }

    fn most_bytes(self, token_bytes: usize) -> usize {
        MOST_BYTES.max(self.most_tokens() * token_bytes)
    }

    /// Enough for [`Sharing::split`] with any number of tokens up to `tokens`, and any smaller table.
    fn workspace_bytes(self, tokens: usize, table: &[usize]) -> usize {
        let token_bytes = self.token_bytes(self.parts(table[1]));
        let most = tokens.min(table[0] * self.most_tokens());
        (most * token_bytes).min(self.most_bytes(token_bytes))
    }
}

/// One launch of attention.
struct Launch<'a, 'b> {
    op: &'a Attention,
    args: &'a [View<'b>],
    tokens: usize,
    sequences: usize,
}

impl Launch<'_, '_> {
    /// The arguments that both kernels have after where they write.
    fn common<'c, D: SimtDriver>(&'c self, call: Call<'c, D>) -> Call<'c, D> {
        let (op, args) = (self.op, self.args);
        let [out, q, table] = [0, 1, 4].map(|i| &args[i]);
        [q, &args[2], &args[3], table, &args[5], &args[6]]
            .into_iter()
            .fold(call, Call::view)
            .view(args.get(7).unwrap_or(&args[6]))
            .int(self.tokens)
            .int(op.heads)
            .int(op.kv_heads)
            .int(op.pages)
            .int(op.page_size)
            .int(self.sequences)
            .long(table.dim(1))
            .long(out.strides()[0])
            .long(out.strides()[1])
            .long(q.strides()[0])
            .long(q.strides()[1])
            .float(op.scale)
            .int(mask_code(op.mask))
    }

    /// Sequences of at least `least` tokens.
    fn many<D: SimtDriver>(
        &self,
        queue: &mut Queue<'_, D>,
        kernel: &Kernel<D>,
        sharing: Sharing,
        least: usize,
    ) -> Result<()> {
        // Each sequence may leave one tile unfilled, and so may tokens before and after all of them.
        let most = self.tokens / least.max(1);
        let full = (self.tokens * sharing.share).div_ceil(MANY_ROWS);
        let tiles = full + self.sequences.min(most) + 2;
        self.common(queue.call().view(&self.args[0]))
            .int(least)
            .run(kernel, [tiles * self.op.kv_heads, 1, 1])
    }

    /// Of `count` sequences from the one of number `first` on those that are not longer than `split.most` tokens.
    fn few<D: SimtDriver>(
        &self,
        queue: &mut Queue<'_, D>,
        kernels: &Kernels<D>,
        sharing: Sharing,
        split: Split,
        [first, count]: [usize; 2],
        workspace: &View<'_>,
    ) -> Result<()> {
        let (op, out) = (self.op, &self.args[0]);
        // Tokens of an average sequence; groups take turns with what there is more.
        let each = self
            .tokens
            .div_ceil(self.sequences.max(1))
            .clamp(1, split.most.max(1));
        let tiles = (each * sharing.share).div_ceil(FEW_ROWS);
        let groups = sharing
            .enough
            .div_ceil((count * tiles * op.kv_heads).max(1));
        let groups = groups.clamp(1, split.parts);
        let outside = usize::from(split.many.is_none());
        self.common(queue.call().view(out).view(workspace))
            .int(first)
            .int(count)
            .int(split.most)
            .int(tiles)
            .int(split.parts)
            .int(groups)
            .run(&kernels.few, [count * tiles + outside, op.kv_heads, groups])?;
        if split.parts == 1 {
            return Ok(());
        }
        queue
            .call()
            .view(out)
            .view(workspace)
            .view(&self.args[5])
            .view(&self.args[6])
            .int(self.tokens)
            .int(op.heads)
            .int(op.pages)
            .int(op.page_size)
            .long(self.args[4].dim(1))
            .long(out.strides()[0])
            .long(out.strides()[1])
            .int(first)
            .int(count)
            .int(split.most)
            .int(split.parts)
            .run(
                &kernels.merge,
                [count * each, op.heads, op.head_dim / COLUMNS],
            )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 32 heads of 128 elements, 16 to a key-value head, in pages of 16.
    const SHARING: Sharing = Sharing {
        heads: 32,
        share: 16,
        head_dim: 128,
        page_size: 16,
        enough: GROUPS_EACH * 132,
    };

    #[test]
    fn kernels_take_what_they_are_for() {
        // Tokens, sequences, pages: tokens from which on they are many, sequences at once, tokens of few, parts.
        for (tokens, table, many, at_once, most, parts) in [
            // A step over few slots and many, a prompt, steps of a batch, and both.
            (1, [1, 4], None, 1, 1, 1),
            (1, [1, 1 << 13], None, 1, 1, PARTS),
            (4, [1, 8], None, 1, 4, 2),
            (512, [1, 64], Some(0), 0, 0, 16),
            (32, [32, 512], None, 32, 32, PARTS),
            (512, [32, 4], Some(5), 32, 4, 1),
            (512, [32, 512], Some(5), 15, 4, PARTS),
            // More than there is memory for at once.
            (200, [200, 512], Some(5), 15, 4, PARTS),
        ] {
            let split = SHARING.split(tokens, &table);
            let found = (split.many, split.at_once, split.most, split.parts);
            assert_eq!(found, (many, at_once, most, parts), "{tokens} {table:?}");
        }
    }

    #[test]
    fn the_workspace_is_enough_and_never_less_for_more() {
        for share in [1, 16, 32] {
            let sharing = Sharing { share, ..SHARING };
            for table in [
                [0, 4],
                [1, 4],
                [1, 5],
                [1, 512],
                [9, 512],
                [300, 9],
                [300, 512],
            ] {
                let mut before = 0;
                for tokens in 0..700 {
                    let bytes = sharing.workspace_bytes(tokens, &table);
                    assert!(bytes >= before);
                    for longer in [[table[0], table[1] + 1], [table[0] + 1, table[1]]] {
                        assert!(bytes <= sharing.workspace_bytes(tokens, &longer));
                    }
                    before = bytes;
                    let split = sharing.split(tokens, &table);
                    let rows = tokens.min(split.at_once * split.most);
                    assert!(
                        rows * sharing.token_bytes(split.parts) <= bytes,
                        "{tokens} {table:?}"
                    );
                }
            }
        }
    }
}
