//! Executors that are kept: an operator with arguments of the same types, lengths and strides is prepared once for a queue, and
//! then given other addresses. One whose tensors nobody says how to count (lists, tensors after one that is not there) is kept
//! for the addresses that it was prepared with.
//!
//! An executor outlives no tensor that it knows: it is destroyed first.

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;

use arrayvec::ArrayVec;
use backend_runtime::Handle;

use crate::operators::Status;
use crate::symbols::Repeats;

/// Most arguments of an operator that are tensors.
const MAX_TENSORS: usize = 8;
/// Addresses of an executor that is used again must be multiples of this.
const ALIGN: u64 = 32;
/// Most tensors, numbers and lists of one operator.
pub(crate) const MAX_HELD: usize = 12;
/// Executors of one queue; with more of them all are made anew.
const MAX_KEPT: usize = 2048;

/// A function that lets something go.
pub(crate) type Destroy = unsafe extern "C" fn(Handle) -> Status;

/// What an operator is given, but for the addresses of its tensors.
pub(crate) struct Call {
    words: ArrayVec<u64, 128>,
    addresses: ArrayVec<u64, MAX_TENSORS>,
    /// There is more of it than is counted here.
    long: bool,
    /// From here on nobody says how tensors are counted.
    uncounted: bool,
    /// It has one that is not: its addresses are part of what is prepared.
    fixed: bool,
}

impl Call {
    pub(crate) fn new(name: &'static str) -> Self {
        let mut call = Self {
            words: ArrayVec::new(),
            addresses: ArrayVec::new(),
            long: false,
            uncounted: false,
            fixed: false,
        };
        // Names are constants, of which one may begin where another does.
        call.word(name.as_ptr().expose_provenance() as u64);
        call.word(name.len() as u64);
        call
    }

    pub(crate) fn word(&mut self, word: u64) {
        self.long |= self.words.try_push(word).is_err();
    }

    /// A tensor that is not there.
    pub(crate) fn absent(&mut self) {
        self.word(u64::MAX);
        self.uncounted = true;
    }

    /// A list of tensors, which comes next.
    pub(crate) fn list(&mut self) {
        self.word(u64::MAX - 1);
        self.uncounted = true;
    }

    pub(crate) fn address(&mut self, address: u64) {
        self.fixed |= self.uncounted;
        // Which tensors are the same memory is part of what was prepared.
        for other in self.addresses.clone() {
            self.word(u64::from(other == address));
        }
        self.long |= self.addresses.try_push(address).is_err();
    }

    /// Nothing more comes.
    pub(crate) fn end(&mut self) {
        if self.fixed {
            for address in self.addresses.clone() {
                self.word(address);
            }
        }
    }

    /// Whether an executor can be kept for it. Operators that work in place have a tensor that is both, of which nobody says
    /// how it is counted; the one that folds a weight changes what it was told of.
    pub(crate) fn can_repeat(&self, name: &str) -> bool {
        let aligned = self.addresses.iter().all(|at| at.is_multiple_of(ALIGN));
        let inplace = name.starts_with("aclnnInplace") || name == "aclnnTransMatmulWeight";
        aligned && !self.long && !inplace
    }
}

/// The executors of a queue.
#[derive(Default)]
pub(crate) struct Executors(HashMap<Box<[u64]>, Kept>);

/// An executor with all that it knows.
struct Kept {
    executor: Executor,
    bytes: u64,
    /// Tensors, in order, and where each is.
    tensors: ArrayVec<(Handle, u64), MAX_TENSORS>,
    /// What it was told of, which goes after it.
    _held: Held,
}

struct Executor(Handle, Destroy);

/// Descriptions that are destroyed when nothing needs them any more.
#[derive(Default)]
pub(crate) struct Held(pub(crate) ArrayVec<(Handle, Destroy), MAX_HELD>);

// SAFETY: descriptions and executors may be used by any thread, by one at a time.
unsafe impl Send for Kept {}

impl Drop for Executor {
    fn drop(&mut self) {
        // SAFETY: it may be used again, and is not.
        unsafe { (self.1)(self.0) };
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for (handle, destroy) in self.0.drain(..) {
            // SAFETY: made by the library whose function this is, and not used again.
            unsafe { destroy(handle) };
        }
    }
}

impl Executors {
    /// The executor for `call`, told of its addresses, and the bytes of its workspace.
    pub(crate) fn find(&mut self, repeats: &Repeats, call: &Call) -> Option<(Handle, u64)> {
        let kept = self.0.get_mut(&call.words[..])?;
        for (i, ((tensor, known), &now)) in kept.tensors.iter_mut().zip(&call.addresses).enumerate()
        {
            if *known == now {
                continue;
            }
            let to: *mut c_void = ptr::with_exposed_provenance_mut(now as usize);
            // SAFETY: the executor may be used again, and the tensor is its own.
            let status = unsafe { (repeats.aclSetTensorAddr)(kept.executor.0, i, *tensor, to) };
            if status != 0 {
                self.0.remove(&call.words[..]);
                return None;
            }
            *known = now;
        }
        Some((kept.executor.0, kept.bytes))
    }

    /// Keeps `executor`, which was just made for `call`, and what it was told of, of which `tensors` are tensors. Gives that back
    /// when the executor cannot be used again.
    pub(crate) fn keep(
        &mut self,
        repeats: &Repeats,
        call: &Call,
        (executor, bytes): (Handle, u64),
        tensors: &[Handle],
        held: Held,
    ) -> Option<Held> {
        // SAFETY: it was just made.
        if unsafe { (repeats.aclSetAclOpExecutorRepeatable)(executor) } != 0 {
            return Some(held);
        }
        if self.0.len() == MAX_KEPT {
            self.0.clear();
        }
        let tensors = tensors.iter().copied().zip(call.addresses.iter().copied());
        let kept = Kept {
            executor: Executor(executor, repeats.aclDestroyAclOpExecutor),
            bytes,
            tensors: tensors.collect(),
            _held: held,
        };
        self.0.insert(call.words[..].into(), kept);
        None
    }
}
