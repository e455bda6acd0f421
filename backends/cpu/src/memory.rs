//! Host memory as device memory, and typed access to it.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use hal::{DeviceId, Error, ErrorKind, Memory, MemoryInfo, Result, View};
use memmap2::MmapMut;

use crate::ControlGroup;

/// Every buffer starts on a cache line.
const ALIGN: usize = 64;

/// Large buffers start on a huge page and ask the system for such pages: fewer misses of the tables that translate
/// addresses. They are mapped, so that who writes a page first is who the system gives it to, not who allocated it.
const HUGE: usize = 2 << 20;

/// Below this size an allocation is not checked against free memory.
const CHECKED_BYTES: usize = 64 << 20;

#[derive(Debug)]
pub(crate) struct CpuMemory {
    data: NonNull<u8>,
    owner: Owner,
    bytes: usize,
    device: DeviceId,
}

/// What the bytes were taken from.
#[derive(Debug)]
enum Owner {
    Heap(Layout),
    /// Of which `data` is the first huge page.
    Map(#[expect(dead_code, reason = "unmapped when it is dropped")] MmapMut),
}

// SAFETY: the memory is plain bytes owned by this value; who writes when is ordered by streams.
unsafe impl Send for CpuMemory {}
// SAFETY: as above.
unsafe impl Sync for CpuMemory {}

impl CpuMemory {
    /// Zeroed memory: the system gives zero pages lazily, and reading it is then always defined.
    pub(crate) fn new(bytes: usize, device: DeviceId) -> Result<Self> {
        let fail = |why: String| {
            Error::new(
                ErrorKind::OutOfMemory,
                format!("allocate {bytes} B on the CPU"),
                why,
            )
            .next_step("close other programs, or choose a smaller --dtype or context")
        };
        if bytes >= CHECKED_BYTES
            && let Some(memory) = memory_info()
            && bytes > memory.free_bytes
        {
            return Err(fail(format!("only {} B are free", memory.free_bytes)));
        }
        let taken = if bytes >= HUGE {
            mapped(bytes).map_err(|e| e.to_string())
        } else {
            heap(bytes)
        };
        let (data, owner) = taken.map_err(fail)?;
        Ok(Self {
            data,
            owner,
            bytes,
            device,
        })
    }
}

fn heap(bytes: usize) -> Result<(NonNull<u8>, Owner), String> {
    let layout = Layout::from_size_align(bytes.max(1), ALIGN).map_err(|e| e.to_string())?;
    // SAFETY: the layout is not zero-sized.
    let data = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or("the system refused")?;
    Ok((data, Owner::Heap(layout)))
}

fn mapped(bytes: usize) -> std::io::Result<(NonNull<u8>, Owner)> {
    let room = bytes
        .checked_add(HUGE)
        .ok_or(std::io::ErrorKind::OutOfMemory)?;
    let mut map = MmapMut::map_anon(room)?;
    let start = map.as_ptr().align_offset(HUGE);
    // Whole ones: the end of a buffer takes no more than it needs. A system without them gives the pages it has.
    #[cfg(target_os = "linux")]
    let _ = map.advise_range(memmap2::Advice::HugePage, start, bytes / HUGE * HUGE);
    let data = NonNull::new(map.as_mut_ptr().wrapping_add(start));
    let data = data.ok_or(std::io::ErrorKind::OutOfMemory)?;
    Ok((data, Owner::Map(map)))
}

impl Drop for CpuMemory {
    fn drop(&mut self) {
        if let Owner::Heap(layout) = self.owner {
            // SAFETY: allocated in `heap` with this layout, dropped once.
            unsafe { dealloc(self.data.as_ptr(), layout) }
        }
    }
}

impl Memory for CpuMemory {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn device(&self) -> DeviceId {
        self.device
    }
}

/// The address of the first element of a view of CPU memory.
///
/// # Panics
/// When the buffer is another backend's; `ops` checks devices before every launch.
pub(crate) fn address<T>(view: &View<'_>) -> *mut T {
    let memory: &CpuMemory = view
        .buffer()
        .downcast()
        .expect("a buffer of the CPU backend");
    // SAFETY: a view's offset lies inside its buffer.
    unsafe { memory.data.as_ptr().add(view.offset_bytes()).cast() }
}

/// The elements of a view, from its first to its last, gaps included.
///
/// # Safety
/// Nothing writes them while the slice lives, and `T` is the view's element type.
pub(crate) unsafe fn elements<'a, T: bytemuck::Pod>(view: &View<'a>) -> &'a [T] {
    let len = view.range_bytes().len() / size_of::<T>();
    // SAFETY: the view's range lies inside its buffer, which is initialised and aligned; the caller orders writes.
    unsafe { std::slice::from_raw_parts(address(view), len) }
}

/// The elements of a view to write, from its first to its last, gaps included.
///
/// # Safety
/// Nothing else reads or writes them while the slice lives, and `T` is the view's element type.
pub(crate) unsafe fn elements_mut<'a, T: bytemuck::Pod>(view: &View<'a>) -> &'a mut [T] {
    let len = view.range_bytes().len() / size_of::<T>();
    // SAFETY: as in `elements`, and the caller has it alone.
    unsafe { std::slice::from_raw_parts_mut(address(view), len) }
}

/// Memory of this machine, or of the control group that holds this process. `None` where the system does not tell.
pub fn memory_info() -> Option<MemoryInfo> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| {
        let line = meminfo.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace()
            .nth(1)?
            .parse::<usize>()
            .ok()
            .map(|kib| kib << 10)
    };
    let (total, free) = (field("MemTotal:")?, field("MemAvailable:")?);
    let group = ControlGroup::of_this_process().and_then(|group| group.memory);
    Some(match group {
        Some(limit) => MemoryInfo {
            total_bytes: total.min(limit.limit_bytes),
            free_bytes: free.min(limit.free_bytes()),
        },
        None => MemoryInfo {
            total_bytes: total,
            free_bytes: free,
        },
    })
}
