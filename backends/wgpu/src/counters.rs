//! What a device was asked for since it was opened.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of an open device. A decode step that is warm adds to launches, submissions and waits only, and to bind
/// groups when its page table has outgrown a binding.
#[derive(Debug, Default)]
pub struct Counters {
    pub(crate) pipelines: Counter,
    pub(crate) buffers: Counter,
    pub(crate) bind_groups: Counter,
    pub(crate) launches: Counter,
    pub(crate) submissions: Counter,
    pub(crate) waits: Counter,
    pub(crate) bytes: Counter,
}

/// [`Counters`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pipelines that were made.
    pub pipelines: u64,
    /// Buffers that were allocated: memory of the caller's, and staging memory.
    pub buffers: u64,
    /// Bind groups that were made.
    pub bind_groups: u64,
    /// Kernels that were recorded.
    pub launches: u64,
    /// Command buffers that were submitted.
    pub submissions: u64,
    /// Calls in which the host waited for the device.
    pub waits: u64,
    /// Bytes of the caller's memory that is allocated now.
    pub bytes_in_use: u64,
}

impl Counters {
    /// The counts now.
    pub fn now(&self) -> Counts {
        Counts {
            pipelines: self.pipelines.get(),
            buffers: self.buffers.get(),
            bind_groups: self.bind_groups.get(),
            launches: self.launches.get(),
            submissions: self.submissions.get(),
            waits: self.waits.get(),
            bytes_in_use: self.bytes.get(),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self) {
        self.more(1);
    }

    pub(crate) fn more(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn less(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
