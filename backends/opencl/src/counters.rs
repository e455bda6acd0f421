//! What a device was asked for since it was opened.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of an open device. A decode step that is warm adds to launches and waits only.
#[derive(Debug, Default)]
pub struct Counters {
    pub(crate) programs: Counter,
    pub(crate) kernels: Counter,
    pub(crate) buffers: Counter,
    pub(crate) launches: Counter,
    pub(crate) waits: Counter,
}

/// [`Counters`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Programs that were compiled, or loaded as binaries.
    pub programs: u64,
    /// Kernel objects that were made.
    pub kernels: u64,
    /// Buffers that were allocated on the device.
    pub buffers: u64,
    /// Kernels that were queued.
    pub launches: u64,
    /// Calls in which the host waited for the device.
    pub waits: u64,
}

impl Counters {
    /// The counts now.
    pub fn now(&self) -> Counts {
        Counts {
            programs: self.programs.get(),
            kernels: self.kernels.get(),
            buffers: self.buffers.get(),
            launches: self.launches.get(),
            waits: self.waits.get(),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
