//! Page-locked memory through which bytes travel, so that copies run beside the host's work.

use std::sync::Arc;

use hal::Result;

use crate::memory::Heap;
use crate::primary::{Event, Primary};

/// Bytes of a slot: what one copy moves at most.
pub(crate) const SLOT: usize = 1 << 20;
/// Slots of a ring.
pub(crate) const SLOTS: usize = 4;
/// Bytes of one transfer begin at multiples of this.
const ALIGN: usize = 64;

/// Slots that are filled one after the other, and again when the copies out of them are done.
pub(crate) struct Ring {
    primary: Arc<Primary>,
    base: *mut u8,
    /// For each slot: after its last copy.
    copied: [Event; SLOTS],
    slot: usize,
    used: usize,
}

// SAFETY: the memory is owned, and may be written by any thread.
unsafe impl Send for Ring {}

impl Ring {
    /// A ring that another queue has left, or a new one.
    pub(crate) fn take(heap: &Heap, doing: &'static str) -> Result<Self> {
        let left = heap.rings.lock().map(|mut rings| rings.pop());
        match left.ok().flatten() {
            Some(ring) => Ok(ring),
            None => Self::new(&heap.primary, doing),
        }
    }

    fn new(primary: &Arc<Primary>, doing: &'static str) -> Result<Self> {
        let event = || Event::new(primary, doing);
        let copied = [event()?, event()?, event()?, event()?];
        let mut base = std::ptr::null_mut();
        // SAFETY: `base` outlives the call.
        let code = unsafe { (primary.api.cuMemHostAlloc)(&mut base, SLOT * SLOTS, 0) };
        primary.check(doing, code)?;
        Ok(Self {
            primary: Arc::clone(primary),
            base: base.cast(),
            copied,
            slot: 0,
            used: 0,
        })
    }

    /// Room for `bytes` ≤ [`SLOT`] that a copy of `stream` is about to use. It keeps its bytes until [`SLOTS`] − 1 further
    /// slots have been given out.
    pub(crate) fn room(
        &mut self,
        doing: &'static str,
        stream: cudarc::driver::sys::CUstream,
        bytes: usize,
    ) -> Result<*mut u8> {
        debug_assert!(bytes <= SLOT);
        if self.used + bytes > SLOT {
            self.close(doing, stream)?;
        }
        if self.used == 0 {
            self.copied[self.slot].synchronize(doing)?;
        }
        let at = self.slot * SLOT + self.used;
        self.used = (self.used + bytes).next_multiple_of(ALIGN);
        Ok(self.base.wrapping_add(at))
    }

    /// Marks the copies of `stream` out of the current slot, and leaves it.
    fn close(&mut self, doing: &'static str, stream: cudarc::driver::sys::CUstream) -> Result<()> {
        self.copied[self.slot].record(doing, stream)?;
        self.slot = (self.slot + 1) % SLOTS;
        self.used = 0;
        Ok(())
    }

    /// Leaves the ring to the next queue.
    pub(crate) fn leave(mut self, heap: &Heap, stream: &crate::primary::Stream) {
        const DOING: &str = "leave page-locked memory";
        if self.used > 0 && self.close(DOING, stream.handle).is_err() {
            // Not to be used again, nor freed before its copies are done.
            let _ = stream.synchronize(DOING);
            return;
        }
        if let Ok(mut rings) = heap.rings.lock() {
            rings.push(self);
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.primary.enter_to_free();
        for event in &self.copied {
            let _ = event.synchronize("free page-locked memory");
        }
        // SAFETY: allocated by the same driver; no copy uses it any more.
        let code = unsafe { (self.primary.api.cuMemFreeHost)(self.base.cast()) };
        self.primary.note(code);
    }
}
