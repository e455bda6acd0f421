//! Host memory as device memory, and typed access to it.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fs::File;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use hal::{DeviceId, Error, ErrorKind, Memory, MemoryInfo, Result, View};
use memmap2::{MmapMut, MmapOptions};

use crate::ControlGroup;

/// Every buffer starts on a cache line.
const ALIGN: usize = 64;

/// Large buffers start on a huge page and ask the system for such pages: fewer misses of the tables that translate
/// addresses. They are mapped, so that who writes a page first is who the system gives it to, not who allocated it.
const HUGE: usize = 2 << 20;

/// Every other large buffer starts so far behind its huge page. Two streams that are read side by side, at the same place of two
/// buffers, would differ in their upper address bits alone, and hardware that reads ahead of them would mix them up.
const STAGGER: usize = 132 << 10;

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
    /// Of a file, or of which `data` is the first huge page.
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

    /// The bytes of a file, as [`hal::Device::map`] says.
    pub(crate) fn map(file: &File, offset: u64, bytes: usize, device: DeviceId) -> Result<Self> {
        let doing = || format!("map {bytes} B of a file from {offset} on");
        let io = |e: std::io::Error| {
            Error::new(ErrorKind::Io, doing(), e.to_string())
                .next_step("see the system's log")
                .with_source(e)
        };
        let len = file.metadata().map_err(io)?.len();
        let end = u64::try_from(bytes)
            .ok()
            .and_then(|n| n.checked_add(offset));
        if end.is_none_or(|end| end > len) {
            return Err(Error::invalid(doing(), format!("it has {len} B")));
        }
        if !offset.is_multiple_of(ALIGN as u64) {
            let why = format!("buffers start at multiples of {ALIGN} B");
            return Err(Error::invalid(doing(), why));
        }
        if bytes == 0 {
            return Self::new(0, device);
        }
        // SAFETY: the map is private, and the trait makes callers keep the file as it is.
        let map = unsafe { MmapOptions::new().offset(offset).len(bytes).map_copy(file) };
        let mut map = map.map_err(io)?;
        // All of it is read soon; only time is lost when the system does not begin at once.
        #[cfg(unix)]
        let _ = map.advise(memmap2::Advice::WillNeed);
        let data = NonNull::new(map.as_mut_ptr());
        Ok(Self {
            data: data.ok_or_else(|| io(std::io::ErrorKind::OutOfMemory.into()))?,
            owner: Owner::Map(map),
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
    static BUFFERS: AtomicUsize = AtomicUsize::new(0);
    let stagger = BUFFERS.fetch_add(1, Ordering::Relaxed) % 2 * STAGGER;
    let room = bytes
        .checked_add(HUGE + STAGGER)
        .ok_or(std::io::ErrorKind::OutOfMemory)?;
    let mut map = MmapMut::map_anon(room)?;
    let start = map.as_ptr().align_offset(HUGE);
    // Whole ones: the end of a buffer takes no more than it needs. A system without them gives the pages it has.
    #[cfg(target_os = "linux")]
    let _ = map.advise_range(memmap2::Advice::HugePage, start, bytes / HUGE * HUGE);
    let data = NonNull::new(map.as_mut_ptr().wrapping_add(start + stagger));
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

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use hal::DType;

    use super::*;

    #[test]
    fn a_file_is_memory() {
        let cpu = crate::open(&crate::Options::default()).unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..10_000_u32).map(|i| (i % 251) as u8).collect();
        file.write_all(&bytes).unwrap();
        let map = |offset, len| cpu.device.map(file.as_file(), offset, len);
        let mut stream = cpu.device.stream().unwrap();
        for (offset, len) in [(0, 10_000), (64, 9_936), (4096, 100), (8192, 0)] {
            let buffer = map(offset as u64, len).unwrap().unwrap();
            let view = View::new(&buffer, DType::U8, &[len]).unwrap();
            let mut found = vec![0; len];
            stream.download(&mut found, &view).unwrap();
            assert_eq!(found, &bytes[offset..offset + len]);
            // Written memory is this process's own.
            stream.upload(&view, &vec![7; len]).unwrap();
            stream.download(&mut found, &view).unwrap();
            assert_eq!(found, vec![7; len]);
            assert_eq!(std::fs::read(file.path()).unwrap(), bytes);
        }
        for (offset, len) in [
            (0, 10_001),
            (64, 9_937),
            (10_048, 0),
            (u64::MAX, 1),
            (1, 64),
        ] {
            let e = map(offset, len).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidArgument, "{offset} {len}");
        }
    }
}
