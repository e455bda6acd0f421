//! The suite catches bugs in real kernels too: the emulator's mutants around the CPU's kernels.
//!
//! A tenth of the table for each operation: the emulator's own test goes through all of it.

use backend_cpu::Options;

macro_rules! hunt {
    ($($name:ident $op:ident),*) => {
        $(#[test]
        fn $name() {
            let cpu = backend_cpu::open(&Options::default()).unwrap();
            let survivors =
                backend_emulator::survivors::<ops::$op>(&cpu, |i, name| i % 10 == 0 || name == "sums-in-f16");
            assert!(survivors.is_empty(), "not caught: {survivors:?}");
        })*
    };
}
conformance::for_each_op!(hunt);
