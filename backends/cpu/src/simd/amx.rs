//! Intel's AMX: tiles of sixteen rows of 64 bytes, `tdpbsud` and `tdpbf16ps`. The compiler knows no such registers, so that each use
//! is a piece of assembly.

use std::arch::asm;
use std::arch::x86_64::{
    __cpuid, __cpuid_count, _mm512_add_epi32, _mm512_cvtepi32_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_set1_epi32,
};
use std::sync::OnceLock;

use super::avx512::{Avx512Pairs, Avx512Vnni};
use super::tiles::{Shape, TILE_ROWS, TILE_STEPS, Tiles};
use super::{Arith, Quantised};

/// Products of fours of integers, summed in i32.
pub(crate) struct AmxInt8;

/// Products of bf16 pairs: the sums of the even and of the odd products of a tile, then these two, join the sum. Each step
/// rounds to nearest and flushes subnormals.
pub(crate) struct AmxBf16;

/// Whether this CPU has tiles of integers and of bf16, and the system lets this process use them.
pub(crate) fn is_allowed() -> bool {
    static ALLOWED: OnceLock<bool> = OnceLock::new();
    *ALLOWED.get_or_init(|| has_tiles() && is_permitted())
}

/// What `cpuid` says of it.
fn has_tiles() -> bool {
    const FEATURES: u32 = 1 << 22 | 1 << 24 | 1 << 25; // bf16, tiles, int8
    const PALETTES: u32 = 0x1d;
    if __cpuid(0).eax < PALETTES || __cpuid_count(7, 0).edx & FEATURES != FEATURES {
        return false;
    }
    let palette = __cpuid_count(PALETTES, 1);
    let (row_bytes, tiles, rows) = (
        palette.ebx & 0xffff,
        palette.ebx >> 16,
        palette.ecx & 0xffff,
    );
    __cpuid_count(PALETTES, 0).eax >= 1 && (row_bytes, tiles, rows) == (64, 8, TILE_ROWS as u32)
}

/// Asks Linux for the state of tiles, which it saves for those processes only that asked.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const REQUEST: libc::c_long = 0x1023; // ARCH_REQ_XCOMP_PERM
    const TILE_DATA: libc::c_long = 18;
    // SAFETY: changes nothing but the permission.
    unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) == 0 }
}

/// How other systems are asked is not known to us.
#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Tiles 0 to 3 are sums; 4 and 5 are x and weights, whole ones; 6 and 7 short ones.
fn set_up(shape: &Shape) {
    let (rows, rest) = (shape.rows as u8, shape.rest as u8);
    let mut config = Config {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes: [0; 16],
        rows: [0; 16],
    };
    for sums in 0..4 {
        (config.rows[sums], config.row_bytes[sums]) = (rows, 64);
    }
    for (x, steps) in [(4, TILE_STEPS as u8), (6, rest)] {
        if steps > 0 {
            (config.rows[x], config.row_bytes[x]) = (rows, 4 * u16::from(steps));
            (config.rows[x + 1], config.row_bytes[x + 1]) = (steps, 64);
        }
    }
    // SAFETY: who sets up tiles has them; the shape is one of theirs.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) }
}

/// Gives the tiles back.
///
/// # Safety
/// [`is_allowed`].
unsafe fn release() {
    // SAFETY: the caller's promise.
    unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) }
}

/// What [`over_and_over`] multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Products {
    Int8,
    Bf16,
}

/// Multiplies a tile by another `rounds` times into four others each, from registers alone, by bytes of many kinds: on some machines
/// zeros take half the time.
///
/// # Safety
/// [`is_allowed`].
pub(crate) unsafe fn over_and_over(products: Products, rounds: usize) {
    macro_rules! four {
        ($dot:literal) => {
            asm!(
                concat!($dot, " tmm0, tmm4, tmm5"),
                concat!($dot, " tmm1, tmm4, tmm5"),
                concat!($dot, " tmm2, tmm4, tmm5"),
                concat!($dot, " tmm3, tmm4, tmm5"),
                options(nostack, nomem, preserves_flags)
            )
        };
    }
    set_up(&Shape {
        rows: TILE_ROWS,
        rest: 0,
    });
    // SAFETY: the caller's promise; they were just set up, and the bytes are a tile.
    unsafe {
        asm!(
            "tileloadd tmm4, [{at} + {step}*1]",
            "tileloadd tmm5, [{at} + {step}*1]",
            at = in(reg) BYTES.as_ptr(), step = in(reg) 64usize,
            options(nostack, readonly, preserves_flags)
        );
        for _ in 0..rounds {
            match products {
                Products::Int8 => four!("tdpbsud"),
                Products::Bf16 => four!("tdpbf16ps"),
            }
        }
        release();
    }
}

/// Pairs of a low byte of any kind and a high one that makes a bf16 of about 1 and 0.01.
static BYTES: [u8; 1024] = {
    let mut bytes = [0; 1024];
    let (mut i, mut random) = (0, 1u32);
    while i < bytes.len() {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes[i] = (random >> 24) as u8;
        bytes[i + 1] = 0x3c | (random >> 16) as u8 & 0x83;
        i += 2;
    }
    bytes
};

/// Multiply-adds of integers of a round of [`over_and_over`]; of bf16 half as many.
pub(crate) const ROUND_PRODUCTS: usize = 4 * TILE_ROWS * 16 * 64;

/// `sums += x · w` for four vectors of weights, by `$dot`, in the tiles given.
macro_rules! multiply {
    ($dot:literal, $tile_x:literal, $tile_w:literal, $x:ident, $x_step:ident, $w:ident) => {
        asm!(
            concat!("tileloadd ", $tile_x, ", [{x} + {x_step}*1]"),
            concat!("tileloadd ", $tile_w, ", [{w} + {w_step}*1]"),
            concat!($dot, " tmm0, ", $tile_x, ", ", $tile_w),
            concat!("tileloadd ", $tile_w, ", [{w} + {w_step}*1 + 64]"),
            concat!($dot, " tmm1, ", $tile_x, ", ", $tile_w),
            concat!("tileloadd ", $tile_w, ", [{w} + {w_step}*1 + 128]"),
            concat!($dot, " tmm2, ", $tile_x, ", ", $tile_w),
            concat!("tileloadd ", $tile_w, ", [{w} + {w_step}*1 + 192]"),
            concat!($dot, " tmm3, ", $tile_x, ", ", $tile_w),
            x = in(reg) $x, x_step = in(reg) $x_step, w = in(reg) $w, w_step = in(reg) 256usize,
            options(nostack, readonly, preserves_flags)
        )
    };
}

/// The tiles of `$unit`, for the operands of `$arith`.
macro_rules! tiles {
    ($unit:ident, $arith:ident, $dot:literal, |$at:ident, $x:ident| $sums:expr) => {
        impl Tiles<$arith> for $unit {
            #[inline(always)]
            unsafe fn set_up(shape: &Shape) {
                set_up(shape);
            }

            #[inline(always)]
            unsafe fn release() {
                // SAFETY: the caller's promise.
                unsafe { release() }
            }

            #[inline(always)]
            unsafe fn clear() {
                // SAFETY: the caller's promise.
                unsafe {
                    asm!(
                        "tilezero tmm0",
                        "tilezero tmm1",
                        "tilezero tmm2",
                        "tilezero tmm3",
                        options(nostack, nomem, preserves_flags)
                    )
                }
            }

            #[inline(always)]
            unsafe fn multiply<const NV: usize>(
                x: *const u8,
                x_step: usize,
                w: *const u8,
                short: bool,
            ) {
                const { assert!(NV == 4) };
                // SAFETY: the caller's promise.
                unsafe {
                    match short {
                        false => multiply!($dot, "tmm4", "tmm5", x, x_step, w),
                        true => multiply!($dot, "tmm6", "tmm7", x, x_step, w),
                    }
                }
            }

            #[inline(always)]
            unsafe fn store<const NV: usize>(to: *mut u8) {
                // SAFETY: the caller's promise.
                unsafe {
                    asm!(
                        "tilestored [{to} + {step}*1], tmm0",
                        "tilestored [{to} + {step}*1 + 64], tmm1",
                        "tilestored [{to} + {step}*1 + 128], tmm2",
                        "tilestored [{to} + {step}*1 + 192], tmm3",
                        to = in(reg) to, step = in(reg) 256usize,
                        options(nostack, preserves_flags)
                    )
                }
            }

            #[inline(always)]
            unsafe fn sums($at: *const u8, $x: *const Quantised) -> <$arith as Arith>::Sum {
                // SAFETY: the caller's promise.
                unsafe { $sums }
            }
        }
    };
}

tiles! { AmxInt8, Avx512Vnni, "tdpbsud", |at, x| _mm512_cvtepi32_ps(_mm512_add_epi32(
    _mm512_loadu_si512(at.cast()),
    _mm512_set1_epi32((*x).start),
)) }
tiles! { AmxBf16, Avx512Pairs, "tdpbf16ps", |at, _x| _mm512_loadu_ps(at.cast()) }
