//! Page-locked memory through which bytes travel, so that copies run beside the host's work.

use std::sync::Arc;

use hal::Result;

use crate::api::{Api, Handle};
use crate::context::{Context, Event, Stream};
use crate::memory::Heap;

/// Bytes of a slot: what one copy moves at most.
pub(crate) const SLOT: usize = 1 << 20;
/// Slots of a ring.
pub(crate) const SLOTS: usize = 4;
/// Bytes of one transfer begin at multiples of this.
const ALIGN: usize = 64;

/// Slots that are filled one after the other, and again when the copies out of them are done.
pub(crate) struct Ring<A: Api> {
    context: Arc<Context<A>>,
    base: *mut u8,
    /// For each slot: after its last copy.
    copied: [Event<A>; SLOTS],
    slot: usize,
    used: usize,
}

// SAFETY: the memory is owned, and may be written by any thread.
unsafe impl<A: Api> Send for Ring<A> {}

impl<A: Api> Ring<A> {
    /// A ring that another queue has left, or a new one.
    pub(crate) fn take(heap: &Heap<A>, doing: &'static str) -> Result<Self> {
        let left = heap.rings.lock().map(|mut rings| rings.pop());
        match left.ok().flatten() {
            Some(ring) => Ok(ring),
            None => Self::new(&heap.context, doing),
        }
    }

    fn new(context: &Arc<Context<A>>, doing: &'static str) -> Result<Self> {
        let event = || Event::new(context, doing);
        let copied = [event()?, event()?, event()?, event()?];
        let mut base = std::ptr::null_mut();
        // SAFETY: `base` outlives the call.
        let code = unsafe { context.api.host_alloc(&mut base, SLOT * SLOTS) };
        context.check(doing, code)?;
        Ok(Self {
            context: Arc::clone(context),
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
        stream: Handle,
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
    fn close(&mut self, doing: &'static str, stream: Handle) -> Result<()> {
        self.copied[self.slot].record(doing, stream)?;
        self.slot = (self.slot + 1) % SLOTS;
        self.used = 0;
        Ok(())
    }

    /// Leaves the ring to the next queue.
    pub(crate) fn leave(mut self, heap: &Heap<A>, stream: &Stream<A>) {
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

impl<A: Api> Drop for Ring<A> {
    fn drop(&mut self) {
        self.context.enter_to_free();
        for event in &self.copied {
            let _ = event.synchronize("free page-locked memory");
        }
        // SAFETY: allocated by the same runtime; no copy uses it any more.
        let code = unsafe { self.context.api.host_free(self.base.cast()) };
        self.context.note(code);
    }
}
