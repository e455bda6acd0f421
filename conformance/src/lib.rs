//! Proves that a device computes: every operation on generated cases against its f64 reference, each element within
//! an error bound computed in advance from formats, lengths and data.
//!
//! Design choices:
//! - Never one tolerance: the bound of an element follows from the sum of magnitudes behind it (see
//!   `docs/numerics.md`). A correct kernel has head-room, a wrong accumulator or a dropped term does not.
//! - Inputs are rounded to storage before the reference sees them, so the device is charged only for its own work.
//! - Data come from counter-based random numbers: a case is its specification, and is the same on every machine.
//! - Every argument lies between guard zones, every output and workspace starts as poison, every case runs twice:
//!   what is written outside, left unwritten, or not repeatable is found whatever the numbers are.
//! - A claimed operation that declines a specification is a failure, and zero cases are no pass.
//! - What needs no reference is checked too: [`metamorphic`] properties, [`discipline`] of streams and batches, and
//!   [`probe`]s of the arithmetic, which are held against the device's card.
//! - Depends on no backend: a backend, in or out of this tree, calls it.
//!
//! Who validates what: the suite checks results, not arguments; `ops` checks those.
//!
//! A backend's `tests/conformance.rs`, a test of level 0 and one per operation:
//! ```
//! # fn main() {}
//! fn accelerator() -> ops::Accelerator {
//!     conformance::reference_device::open()
//! }
//! conformance::tests!(accelerator);
//! ```
#![forbid(unsafe_code)]

mod bench;
mod bound;
mod capture;
mod case;
mod cases;
mod check;
pub mod discipline;
mod generate;
mod json;
mod lab;
mod level;
mod memory;
pub mod metamorphic;
pub mod number;
mod outcome;
mod picks;
pub mod probe;
pub mod reference_device;
mod replay;
pub mod report;
mod rng;
mod robustness;
mod run;
pub mod runner;
pub mod shapes;
mod skip;
mod soak;
pub mod speed;
mod suite;
pub mod waivers;

pub use bench::Launches;
pub use bound::{Bound, Expected, Model};
pub use case::{Case, Layout, Operand};
pub use cases::Conformance;
pub use check::{Catalogue, Check, Depth, Fault, Selection, types};
pub use generate::Generator;
pub use level::{Level, Levels};
pub use outcome::{Metrics, Outcome, Report, Speed, Status, Worst};
pub use picks::Picks;
pub use rng::Rng;
pub use run::run;
pub use runner::{Asked, DeviceFacts, Record};
pub use skip::skip;
pub use suite::{Suite, Truth};

/// Calls a macro with the name and the type of every operation: `$mac! { name Type, ... }`.
#[macro_export]
macro_rules! for_each_op {
    ($mac:ident) => {
        $mac! {
            embedding Embedding, matmul Matmul, batched_matmul BatchedMatmul, softmax Softmax,
            attention Attention, kv_write KvWrite, rope Rope, rope_kv_write RopeKvWrite,
            rms_norm RmsNorm, layer_norm LayerNorm, add_rms_norm AddRmsNorm, add_layer_norm AddLayerNorm, glu Glu,
            activation Activation, elementwise Elementwise, cast Cast, copy StridedCopy,
            argmax Argmax, top_k TopK, sample Sample
        }
    };
}

/// Declares a test of level 0 and one per operation, named after it, that runs its standard cases on what `$open` opens.
#[macro_export]
macro_rules! tests {
    ($open:path) => {
        $crate::tests!(@with $open, $);
    };
    // `$d` is a dollar sign, for the inner macro's own variables.
    (@with $open:path, $d:tt) => {
        macro_rules! one_test_per_op {
            ($d($d name:ident $d op:ident),*) => {
                $d(#[test]
                fn $d name() {
                    let report = $crate::Suite::new($open()).run::<::ops::$d op>();
                    println!("{report}");
                    report.require_pass().unwrap();
                })*
            };
        }
        $crate::for_each_op!(one_test_per_op);

        #[test]
        fn memory_and_streams() {
            let report = $crate::Suite::new($open()).run_level($crate::Level::Memory);
            println!("{report}");
            report.require_no_failure().unwrap();
        }
    };
}
