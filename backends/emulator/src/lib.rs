//! A device that exists only here: it tests the conformance suite, and what the layers above do when a chip is odd,
//! small, slow to answer, or broken.
//!
//! Design choices:
//! - A device is a value: a [`Character`] (what a chip may be like and stay right) and [`Faults`] (what no chip may
//!   do), both parsed from a spec such as `emulator:wave64,ftz,mem64m,async` or `emulator:lost@40`.
//! - Plain scalar kernels, one per operation. They round as a chip does: operands in storage types, sums in f32 lane by
//!   lane, one rounding to storage.
//! - With `async`, work waits in its stream until somebody needs it: the laziest order that events allow.
//! - Wrong results are a table of named [`mutants`], each a change around one operation's kernel. They fit any
//!   accelerator, so the same table breaks the CPU's kernels too.
//! - `emulator:simt,wave64,wg128,local16k` is another device: it compiles the portable kernels of `backend_simt`, those that GPUs
//!   get, as C++ and runs their work-items as fibers. Its groups, waves and local memory are as small as one likes; the plain
//!   kernels have none of these.
//! - [`mutation_score`] runs the suite, and the tolerance rules of other projects, against that table.
//!
//! Who validates what: `ops` has checked shapes, types and devices before a kernel runs. Kernels bound the ids, page
//! numbers and lengths that they read from memory.
//!
//! ```
//! # fn main() -> hal::Result<()> {
//! let emulator = backend_emulator::open("emulator:wave64,async")?;
//! println!("{}", emulator.device.info().detail);
//! # Ok(()) }
//! ```
#![deny(unsafe_code)]

mod character;
mod device;
mod kernels;
pub mod mutants;
#[expect(unsafe_code, reason = "the driver's launch, which is refused here")]
pub mod programs;
pub mod resources;
mod rules;
mod score;
#[expect(
    unsafe_code,
    reason = "memory of a device, and code that was compiled at run time"
)]
mod simt;
#[expect(
    unsafe_code,
    reason = "functions of a library that was compiled at run time"
)]
pub mod stand_in;

use std::sync::Arc;

use hal::{DeviceId, Error, Result};
use ops::{Accelerator, Ops};

pub use character::{Character, Faults};
pub use rules::Rule;
pub use score::{Options, RuleScore, Score, Survivor, mutation_score, survivors};
pub use simt::sanitizer;

use device::{Board, EmulatorDevice};

/// Opens the emulator that `spec` describes: `emulator`, or `emulator:` and a list of properties, faults and
/// `mutant=operation/name`; `emulator:simt` and its limits run portable kernels.
///
/// # Errors
/// `InvalidArgument` for a word that is none of these; it lists those that are. `NotFound` for `simt` without a C++ compiler.
pub fn open(spec: &str) -> Result<Accelerator> {
    let words = spec.strip_prefix("emulator").unwrap_or(spec);
    let words = words.strip_prefix(':').unwrap_or(words);
    let list: Vec<&str> = words.split(',').filter(|word| !word.is_empty()).collect();
    if let Some((&"simt", shape)) = list.split_first() {
        return simt::open(spec, simt::Shape::parse(spec, shape)?);
    }
    let (mut character, mut faults, mut mutant) = (Character::default(), Faults::default(), None);
    for word in list {
        match word.strip_prefix("mutant=") {
            Some(name) => mutant = Some(name),
            None => {
                if !character.set(word)? && !faults.set(word)? {
                    return Err(Error::invalid(
                        format!("open '{spec}'"),
                        format!("unknown word '{word}'"),
                    )
                    .next_step(format!(
                        "words: {}, {}, mutant=operation/name",
                        Character::WORDS,
                        Faults::WORDS
                    )));
                }
            }
        }
    }
    let accelerator = of(spec, character, faults);
    match mutant {
        Some(name) => mutants::apply(accelerator, name),
        None => Ok(accelerator),
    }
}

/// An emulator of this character with these faults.
pub fn of(spec: &str, character: Character, faults: Faults) -> Accelerator {
    let board = Arc::new(Board::new(DeviceId::new(), character, faults));
    macro_rules! all {
        ($($name:ident $op:ident),*) => {
            Ops { $($name: Some(Arc::new(kernels::Planner::<ops::$op>::new(board.clone()))),)* }
        };
    }
    Accelerator {
        ops: conformance::for_each_op!(all),
        device: Arc::new(EmulatorDevice::new(spec, board)),
    }
}
