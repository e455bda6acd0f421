//! The suite on its own reference device: the pattern that a backend's `tests/conformance.rs` follows.

fn accelerator() -> ops::Accelerator {
    conformance::reference_device::open()
}

conformance::tests!(accelerator);
