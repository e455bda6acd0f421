//! Device memory.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Identifies one opened device within this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceId(u64);

impl DeviceId {
    /// An id that no other opened device has.
    #[expect(clippy::new_without_default, reason = "each call gives another id")]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What a backend implements for its memory. Freed when the last [`Buffer`] is dropped;
/// a backend whose streams are asynchronous delays the free until pending work has finished.
pub trait Memory: Any + Send + Sync + Debug {
    /// Size in bytes.
    fn bytes(&self) -> usize;
    /// The device that owns it.
    fn device(&self) -> DeviceId;
}

/// A shared handle to device memory. Cloning shares, never copies.
#[derive(Clone, Debug)]
pub struct Buffer(Arc<dyn Memory>);

impl Buffer {
    /// Wraps a backend's memory.
    pub fn new(memory: impl Memory) -> Self {
        Self(Arc::new(memory))
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// The device that owns it.
    pub fn device(&self) -> DeviceId {
        self.0.device()
    }

    /// The backend's own type, when `M` is it.
    pub fn downcast<M: Memory>(&self) -> Option<&M> {
        (&*self.0 as &dyn Any).downcast_ref()
    }

    /// Whether both handles share one allocation.
    pub fn same(&self, other: &Buffer) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
