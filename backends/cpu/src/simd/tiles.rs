//! Products of tiles: sixteen rows of x by a panel of weights at once.

use super::{Arith, Quantised};

/// The most rows of a tile of x.
pub(crate) const TILE_ROWS: usize = 16;

/// The most steps that a tile is wide.
pub(crate) const TILE_STEPS: usize = 16;

/// What the tiles of one launch look like.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(any(test, target_arch = "x86_64")),
    expect(dead_code, reason = "read where there are tiles")
)]
pub(crate) struct Shape {
    /// Rows of x, and of sums: 1 to [`TILE_ROWS`].
    pub(crate) rows: usize,
    /// Steps of the short tiles, where a stretch is not whole tiles of [`TILE_STEPS`]: fewer than those, or 0 for none.
    pub(crate) rest: usize,
}

/// Registers of tiles, for the operands of `A`: sums of a tile of x by a panel of up to four vectors.
///
/// # Safety
/// Of every method: the CPU has the tiles; but for `set_up`, it was called on this thread, and `release` was not since.
pub(crate) trait Tiles<A: Arith> {
    /// Whether there are any.
    const EXIST: bool = true;

    /// Makes tiles of this shape.
    unsafe fn set_up(shape: &Shape);
    /// Gives them back.
    unsafe fn release();
    /// Sets the sums to zero.
    unsafe fn clear();
    /// `sums += x · w`, [`TILE_STEPS`] steps or, if `short`, the rest: rows of x lie `x_step` bytes apart, steps of the panel,
    /// of `NV` vectors, after each other. They are all there.
    unsafe fn multiply<const NV: usize>(x: *const u8, x_step: usize, w: *const u8, short: bool);
    /// Writes the sums: row by row a panel of `NV` vectors.
    unsafe fn store<const NV: usize>(to: *mut u8);
    /// A vector of what was stored: of integers, less what their offset added.
    unsafe fn sums(at: *const u8, x: *const Quantised) -> A::Sum;
}

/// No tiles.
pub(crate) struct NoTiles;

impl<A: Arith> Tiles<A> for NoTiles {
    const EXIST: bool = false;

    unsafe fn set_up(_: &Shape) {}

    unsafe fn release() {}

    unsafe fn clear() {}

    unsafe fn multiply<const NV: usize>(_: *const u8, _: usize, _: *const u8, _: bool) {}

    unsafe fn store<const NV: usize>(_: *mut u8) {}

    unsafe fn sums(_: *const u8, _: *const Quantised) -> A::Sum {
        unreachable!("there are no tiles")
    }
}

/// Tiles in plain Rust, to test what is done with them where no CPU has them.
#[cfg(test)]
pub(crate) use emulated::Emulated;

#[cfg(test)]
mod emulated {
    use std::cell::RefCell;

    use super::super::scalar::{ScalarBf16, ScalarInt8, add_bf16_products};
    use super::*;

    pub(crate) struct Emulated;

    /// A thread's tiles.
    #[derive(Default)]
    struct State {
        shape: Option<Shape>,
        /// Row by row, their bits.
        sums: Vec<u32>,
    }

    thread_local! {
        static STATE: RefCell<State> = RefCell::default();
    }

    impl State {
        fn shape(&self) -> Shape {
            self.shape.expect("tiles were set up")
        }
    }

    /// `sum + x · w`, of bits.
    type Dot = fn(sum: u32, x: u32, w: u32) -> u32;

    /// # Safety
    /// As [`Tiles::multiply`], of a panel of so many lanes.
    unsafe fn multiply(
        x: *const u8,
        x_step: usize,
        w: *const u8,
        short: bool,
        panel: usize,
        dot: Dot,
    ) {
        STATE.with_borrow_mut(|state| {
            let shape = state.shape();
            let steps = if short { shape.rest } else { TILE_STEPS };
            assert!(steps > 0, "no short tiles were asked for");
            state.sums.resize(shape.rows * panel, 0);
            for (r, sums) in state.sums.chunks_exact_mut(panel).enumerate() {
                for s in 0..steps {
                    for (lane, sum) in sums.iter_mut().enumerate() {
                        let x = x.wrapping_add(r * x_step + 4 * s).cast::<u32>();
                        let w = w.wrapping_add(4 * (s * panel + lane)).cast::<u32>();
                        // SAFETY: the caller's promise.
                        *sum = unsafe { dot(*sum, x.read_unaligned(), w.read_unaligned()) };
                    }
                }
            }
        });
    }

    macro_rules! emulated {
        ($arith:ident, $dot:expr, |$at:ident, $x:ident| $sums:expr) => {
            impl Tiles<$arith> for Emulated {
                unsafe fn set_up(shape: &Shape) {
                    assert!((1..=TILE_ROWS).contains(&shape.rows) && shape.rest < TILE_STEPS);
                    STATE.with_borrow_mut(|state| {
                        assert!(state.shape.replace(*shape).is_none(), "never given back");
                    });
                }

                unsafe fn release() {
                    STATE.take();
                }

                unsafe fn clear() {
                    STATE.with_borrow_mut(|state| state.sums.clear());
                }

                unsafe fn multiply<const NV: usize>(
                    x: *const u8,
                    x_step: usize,
                    w: *const u8,
                    short: bool,
                ) {
                    // SAFETY: the caller's promise.
                    unsafe { multiply(x, x_step, w, short, NV * $arith::LANES, $dot) }
                }

                unsafe fn store<const NV: usize>(to: *mut u8) {
                    STATE.with_borrow(|state| {
                        assert_eq!(state.sums.len(), state.shape().rows * NV * $arith::LANES);
                        for (i, &sum) in state.sums.iter().enumerate() {
                            // SAFETY: the caller's promise.
                            unsafe { to.cast::<u32>().wrapping_add(i).write_unaligned(sum) }
                        }
                    });
                }

                unsafe fn sums($at: *const u8, $x: *const Quantised) -> [f32; 4] {
                    // SAFETY: the caller's promise.
                    unsafe { $sums }
                }
            }
        };
    }

    emulated! {
        ScalarInt8,
        |sum, x, w| {
            let products = x.to_le_bytes().into_iter().zip(w.to_le_bytes());
            let products = products.map(|(x, w)| i32::from(x as i8) * i32::from(w));
            (sum as i32 + products.sum::<i32>()) as u32
        },
        |at, x| at.cast::<[i32; 4]>().read_unaligned().map(|sum| (sum + (*x).start) as f32)
    }

    emulated! {
        ScalarBf16,
        |sum, x, w| add_bf16_products(f32::from_bits(sum), x, w).to_bits(),
        |at, _x| at.cast::<[f32; 4]>().read_unaligned()
    }
}
