//! Norms, gated units, rotary positions and writes to the cache, sixteen bytes at a time.

use std::sync::Arc;

use backend_simt::kit::{
    ACTIVATE, Chip, DIALECT, EIGHT, Planned, REDUCE, activation_code, is_aligned,
    kv_write_arguments, native, norm_arguments, rope_kv_write_arguments,
};
use backend_simt::{SimtDriver, Source};
use hal::{DType, View};
use ops::{
    AddLayerNorm, AddRmsNorm, Glu, KvWrite, LayerNorm, RmsNorm, Rope, RopeKvWrite, RopeLayout,
};

use super::{resident, x_is};

const NORM: Source = Source {
    name: "cuda_norm",
    parts: &[
        DIALECT,
        EIGHT,
        REDUCE,
        include_str!("../../kernels/norm.cuh"),
    ],
    begins_early: true,
};
const GLU: Source = Source {
    name: "cuda_glu",
    parts: &[
        DIALECT,
        EIGHT,
        ACTIVATE,
        include_str!("../../kernels/glu.cuh"),
    ],
    begins_early: true,
};
const TURN: &str = include_str!("../../kernels/turn.cuh");

const ROPE: Source = Source {
    name: "cuda_rope",
    parts: &[DIALECT, EIGHT, TURN, include_str!("../../kernels/rope.cuh")],
    begins_early: true,
};
const ROPE_KV_WRITE: Source = Source {
    name: "cuda_rope_kv_write",
    parts: &[
        DIALECT,
        EIGHT,
        TURN,
        include_str!("../../kernels/rope_kv_write.cuh"),
    ],
    begins_early: true,
};
const KV_WRITE: Source = Source {
    name: "cuda_kv_write",
    parts: &[DIALECT, EIGHT, include_str!("../../kernels/kv_write.cuh")],
    begins_early: true,
};

/// Work-items of a group.
const GROUP: usize = 256;

/// Groups of a norm on a multiprocessor.
const NORM_GROUPS: usize = 5;

/// Elements that are handled at a time.
const EIGHTS: usize = 8;

fn is_short(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

/// Whether the rows of all `views` that are not vectors begin at multiples of 16 bytes.
fn all_aligned(views: &[View<'_>]) -> usize {
    let matrices = views.iter().filter(|view| view.rank() > 1);
    usize::from(matrices.into_iter().all(is_aligned))
}

/// Whether the heads of all `views` begin at multiples of 16 bytes.
fn has_aligned_heads(views: &[&View<'_>]) -> bool {
    let aligned = |view: &&View<'_>| view.strides()[1].is_multiple_of(EIGHTS) && is_aligned(view);
    views.iter().all(aligned)
}

/// A norm over rows, with these numbers after its views and strides.
fn norm<D: SimtDriver>(
    chip: &Arc<Chip<D>>,
    dtype: DType,
    adds: bool,
    layer: bool,
    floats: &[f32],
) -> Planned {
    if !is_short(dtype) {
        return Ok(None);
    }
    let defines = [
        ("X", dtype.to_string()),
        x_is(dtype),
        resident(NORM_GROUPS),
        ("ADDS", usize::from(adds).to_string()),
        ("LAYER", usize::from(layer).to_string()),
    ];
    let kernel = chip.kernel(&NORM, "norm_rows", GROUP, &defines)?;
    let floats = floats.to_vec();
    native(chip, move |queue, args| {
        norm_arguments(queue.call(), args, &floats)
            .int(all_aligned(args))
            .run(&kernel, [args[0].dim(0), 1, 1])
    })
}

pub(super) fn rms_norm<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &RmsNorm) -> Planned {
    norm(chip, op.dtype, false, false, &[op.eps])
}

pub(super) fn layer_norm<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &LayerNorm) -> Planned {
    norm(chip, op.dtype, false, true, &[op.eps])
}

pub(super) fn add_rms_norm<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &AddRmsNorm) -> Planned {
    norm(chip, op.dtype, true, false, &[op.alpha, op.eps])
}

pub(super) fn add_layer_norm<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &AddLayerNorm) -> Planned {
    norm(chip, op.dtype, true, true, &[op.alpha, op.eps])
}

pub(super) fn glu<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &Glu) -> Planned {
    if !is_short(op.dtype) {
        return Ok(None);
    }
    let act = activation_code(Some(op.act));
    let defines = [
        ("X", op.dtype.to_string()),
        x_is(op.dtype),
        ("ACT", act.to_string()),
    ];
    let kernel = chip.kernel(&GLU, "glu_eights", GROUP, &defines)?;
    let [gate, up] = op.halves().map(|half| half.start);
    let limit = op.limit;
    native(chip, move |queue, args| {
        let [out, x] = args else {
            unreachable!("counted by check_args")
        };
        let halves = [gate, up].iter().all(|half| half.is_multiple_of(EIGHTS));
        let [rows, dim] = [out.dim(0), out.dim(1)];
        queue
            .call()
            .view(out)
            .view(x)
            .int(dim)
            .long(out.strides()[0])
            .long(x.strides()[0])
            .long(gate)
            .long(up)
            .int(usize::from(limit.is_some()))
            .float(limit.unwrap_or(0.0))
            .int(if halves { all_aligned(args) } else { 0 })
            .run(&kernel, [rows, dim.div_ceil(EIGHTS * GROUP), 1])
    })
}

/// How a head is turned by eights.
struct Turning {
    defines: [(&'static str, String); 6],
    /// Turns of a stream, each by one work-item.
    turns: usize,
    /// Work-items of a stream: its turns, and eights that are only copied.
    works: usize,
}

impl Turning {
    /// `None` where eights do not divide what is turned, and what is not.
    fn of(op: &Rope) -> Option<Self> {
        if op.streams == 0 || !op.head_dim.is_multiple_of(op.streams) {
            return None;
        }
        let pairs = op.rotary_dim / 2;
        let rest = (op.head_dim / op.streams).checked_sub(2 * pairs)?;
        if !is_short(op.dtype) || ![pairs, rest].iter().all(|n| n.is_multiple_of(EIGHTS)) {
            return None;
        }
        let half_split = op.layout == RopeLayout::HalfSplit;
        // Half-split pairs are turned by eights, neighbours by fours.
        let turns = pairs / if half_split { EIGHTS } else { EIGHTS / 2 };
        Some(Self {
            defines: [
                ("X", op.dtype.to_string()),
                x_is(op.dtype),
                ("STREAMS", op.streams.to_string()),
                ("PAIRS", pairs.to_string()),
                ("REST", rest.to_string()),
                ("HALF_SPLIT", usize::from(half_split).to_string()),
            ],
            turns,
            works: turns + rest / EIGHTS,
        })
    }
}

pub(super) fn rope<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &Rope) -> Planned {
    let Some(Turning {
        defines,
        turns,
        works,
    }) = Turning::of(op)
    else {
        return Ok(None);
    };
    let kernel = chip.kernel(&ROPE, "rope_eights", GROUP, &defines)?;
    let streams = op.streams;
    native(chip, move |queue, args| {
        let [out, x, positions, cos, sin] = args else {
            unreachable!("counted by check_args")
        };
        // In place, what is not turned is there already.
        let works = if out.same(x) { turns } else { works };
        let items = x.dim(0) * x.dim(1) * streams * works;
        queue
            .call()
            .view(out)
            .view(x)
            .view(positions)
            .view(cos)
            .view(sin)
            .int(x.dim(1))
            .long(cos.dim(0))
            .long(out.strides()[0])
            .long(out.strides()[1])
            .long(x.strides()[0])
            .long(x.strides()[1])
            .long(positions.strides()[0])
            .long(positions.strides()[1])
            .int(usize::from(has_aligned_heads(&[out, x])))
            .int(works)
            .long(items)
            .run(&kernel, [items.div_ceil(GROUP), 1, 1])
    })
}

pub(super) fn rope_kv_write<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &RopeKvWrite) -> Planned {
    let Some(Turning { defines, works, .. }) = Turning::of(&op.rope()) else {
        return Ok(None);
    };
    if op.kv != op.dtype {
        return Ok(None);
    }
    let kernel = chip.kernel(&ROPE_KV_WRITE, "rope_kv_write_eights", GROUP, &defines)?;
    let op = op.clone();
    native(chip, move |queue, args| {
        let [qkv, k_pages, v_pages, ..] = args else {
            unreachable!("counted by check_args")
        };
        let items = qkv.dim(0) * qkv.dim(1) * op.streams * works;
        rope_kv_write_arguments(queue.call(), &op, args)
            .int(usize::from(has_aligned_heads(&[qkv, k_pages, v_pages])))
            .long(items)
            .run(&kernel, [items.div_ceil(GROUP), 1, 1])
    })
}

pub(super) fn kv_write<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &KvWrite) -> Planned {
    if !is_short(op.dtype) || op.kv != op.dtype || !op.head_dim.is_multiple_of(EIGHTS) {
        return Ok(None);
    }
    let defines = [("X", op.dtype.to_string()), x_is(op.dtype)];
    let kernel = chip.kernel(&KV_WRITE, "kv_write_eights", GROUP, &defines)?;
    let op = op.clone();
    native(chip, move |queue, args| {
        let [k_pages, v_pages, k, v, _] = args else {
            unreachable!("counted by check_args")
        };
        let aligned = has_aligned_heads(&[k_pages, v_pages, k, v]);
        let groups = k.len().div_ceil(EIGHTS * GROUP);
        kv_write_arguments(queue.call(), &op, args)
            .int(usize::from(aligned))
            .run(&kernel, [groups, 1, 1])
    })
}
