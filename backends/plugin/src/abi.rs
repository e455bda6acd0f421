//! `include/glm_hal.h` in Rust: the same structs in the same order, and the check of a table.

use std::ffi::{c_char, c_void};

use hal::{DType, Error, ErrorKind, Result};

pub(crate) const VERSION: u32 = 1;
const TEXT_BYTES: usize = 512;

/// A pointer to an object of the plugin, or to one that lives for a call.
pub(crate) type Handle = *mut c_void;

pub(crate) const OK: u32 = 0;
const KINDS: [ErrorKind; 10] = [
    ErrorKind::Unsupported,
    ErrorKind::InvalidArgument,
    ErrorKind::OutOfMemory,
    ErrorKind::DeviceLost,
    ErrorKind::CompileFailed,
    ErrorKind::NotFound,
    ErrorKind::Corrupt,
    ErrorKind::Numeric,
    ErrorKind::Io,
    ErrorKind::Unexpected,
];

/// The class of a result code other than [`OK`].
pub(crate) fn kind(code: u32) -> ErrorKind {
    let at = (code as usize).checked_sub(1);
    let kind = at.and_then(|at| KINDS.get(at));
    kind.copied().unwrap_or(ErrorKind::Unexpected)
}

/// The types in the order of their codes.
const TYPES: [DType; 6] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::I8,
    DType::U8,
    DType::I32,
];

/// The code of a type; `None` for one that this version of the table does not know.
pub(crate) fn code(dtype: DType) -> Option<u32> {
    TYPES.iter().position(|t| *t == dtype).map(|at| at as u32)
}

/// The type of a code.
pub(crate) fn dtype(code: u32) -> Option<DType> {
    TYPES.get(code as usize).copied()
}

/// The float types of a set; `None` when it has others.
pub(crate) fn floats(set: u32) -> Option<Vec<DType>> {
    let all = || TYPES.iter().filter(|t| t.is_float());
    let known: u32 = all().filter_map(|t| code(*t)).map(|at| 1 << at).sum();
    let has = |t: &&DType| code(**t).is_some_and(|at| set >> at & 1 == 1);
    (set & !known == 0).then(|| all().filter(has).copied().collect())
}

#[repr(C)]
pub(crate) struct RawError {
    struct_size: u32,
    reserved: u32,
    text: [u8; TEXT_BYTES],
}

impl RawError {
    pub(crate) fn new() -> Self {
        Self {
            struct_size: size_of::<Self>() as u32,
            reserved: 0,
            text: [0; TEXT_BYTES],
        }
    }

    /// What the plugin wrote: up to the first zero byte, or all of it.
    pub(crate) fn text(&self) -> String {
        text(&self.text)
    }
}

/// Text up to the first zero byte, or to the end.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).trim().to_string()
}

#[repr(C)]
pub(crate) struct RawInfo {
    pub(crate) struct_size: u32,
    pub(crate) parallelism: u32,
    pub(crate) native_floats: u32,
    pub(crate) floats: u32,
    pub(crate) accumulator: u32,
    pub(crate) operand_bits: u32,
    pub(crate) flushes: u32,
    pub(crate) rounds_probabilities: u32,
    pub(crate) name: [u8; 128],
    pub(crate) detail: [u8; 256],
    pub(crate) rounds_weights: u32,
}

impl RawInfo {
    pub(crate) fn new() -> Self {
        Self {
            struct_size: size_of::<Self>() as u32,
            parallelism: 0,
            native_floats: 0,
            floats: 0,
            accumulator: 0,
            operand_bits: 0,
            flushes: 0,
            rounds_probabilities: 0,
            name: [0; 128],
            detail: [0; 256],
            rounds_weights: 0,
        }
    }
}

#[repr(C)]
pub(crate) struct RawMemory {
    pub(crate) struct_size: u32,
    pub(crate) reserved: u32,
    pub(crate) total_bytes: u64,
    pub(crate) free_bytes: u64,
}

#[repr(C)]
pub(crate) struct RawArg {
    pub(crate) struct_size: u32,
    pub(crate) role: u32,
    pub(crate) dtype: u32,
    pub(crate) reserved: u32,
    pub(crate) name: *const c_char,
    pub(crate) weight: *const c_char,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct RawShape {
    pub(crate) struct_size: u32,
    pub(crate) rank: u32,
    pub(crate) dims: [u64; hal::MAX_RANK],
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct RawView {
    pub(crate) struct_size: u32,
    pub(crate) dtype: u32,
    pub(crate) rank: u32,
    pub(crate) reserved: u32,
    pub(crate) buffer: Handle,
    pub(crate) offset_bytes: u64,
    pub(crate) shape: [u64; hal::MAX_RANK],
    pub(crate) strides: [u64; hal::MAX_RANK],
}

#[repr(C)]
pub(crate) struct RawWeight {
    pub(crate) struct_size: u32,
    pub(crate) reserved: u32,
    pub(crate) format: *const c_char,
    pub(crate) rows: u64,
    pub(crate) cols: u64,
    pub(crate) data: *const c_void,
    pub(crate) data_bytes: u64,
    pub(crate) scales: *const c_void,
    pub(crate) scales_bytes: u64,
}

/// Declares the table as it lies in the library (`RawTable`) and as it is used (`Table`): a `need` is there, a `may` need
/// not be.
macro_rules! table {
    ($($kind:ident $name:ident: fn($($arg:ty),*) $(-> $ret:ty)?;)*) => {
        #[derive(Clone, Copy)]
        #[repr(C)]
        pub(crate) struct RawTable {
            pub(crate) struct_size: u32,
            pub(crate) version: u32,
            $($name: Option<unsafe extern "C" fn($($arg),*) $(-> $ret)?>,)*
        }

        /// The functions of a plugin, checked.
        #[derive(Debug)]
        pub(crate) struct Table {
            $(pub(crate) $name: table!(@type $kind unsafe extern "C" fn($($arg),*) $(-> $ret)?),)*
        }

        impl RawTable {
            fn functions(&self, doing: &str) -> Result<Table> {
                Ok(Table { $($name: table!(@take $kind self.$name, doing, stringify!($name)),)* })
            }
        }
    };
    (@type need $f:ty) => { $f };
    (@type may $f:ty) => { Option<$f> };
    (@take need $f:expr, $doing:expr, $name:expr) => {
        $f.ok_or_else(|| {
            Error::invalid($doing, format!("its table has no function {}", $name))
                .next_step("ask the vendor for a complete plugin: glm_hal.h says which may be NULL")
        })?
    };
    (@take may $f:expr, $doing:expr, $name:expr) => { $f };
}

type Fail = *mut RawError;

table! {
    need device_open: fn(*const c_char, *mut Handle, Fail) -> u32;
    need device_close: fn(Handle);
    need device_info: fn(Handle, *mut RawInfo, Fail) -> u32;
    may device_memory: fn(Handle, *mut RawMemory, Fail) -> u32;
    need buffer_alloc: fn(Handle, u64, *mut Handle, Fail) -> u32;
    need buffer_free: fn(Handle, Handle);
    need stream_open: fn(Handle, *mut Handle, Fail) -> u32;
    need stream_drop: fn(Handle);
    need upload: fn(Handle, Handle, u64, *const c_void, u64, Fail) -> u32;
    need download: fn(Handle, *mut c_void, Handle, u64, u64, Fail) -> u32;
    need synchronize: fn(Handle, Fail) -> u32;
    need event_record: fn(Handle, *mut Handle, Fail) -> u32;
    need event_drop: fn(Handle);
    need event_wait: fn(Handle, Handle, Fail) -> u32;
    need event_synchronize: fn(Handle, Fail) -> u32;
    need event_elapsed: fn(Handle, Handle, *mut u64, Fail) -> u32;
    need op_claimed: fn(Handle, *const c_char) -> u32;
    need plan: fn(Handle, *const c_char, *const c_char, *const *const RawArg, u32, *mut Handle, Fail) -> u32;
    need plan_drop: fn(Handle);
    may plan_workspace_bytes: fn(Handle, *const *const RawShape, u32) -> u64;
    may plan_pack: fn(Handle, *const RawWeight, *mut Handle, *mut u64, Fail) -> u32;
    need launch: fn(Handle, Handle, *const *const RawView, u32, *const RawView, Fail) -> u32;
    may capture_begin: fn(Handle, Fail) -> u32;
    may capture_end: fn(Handle, *mut Handle, Fail) -> u32;
    may graph_launch: fn(Handle, Handle, Fail) -> u32;
    may graph_drop: fn(Handle);
}

impl Table {
    /// Reads and checks what `glm_hal_plugin` returned.
    ///
    /// # Safety
    /// `raw` is null, or points to a struct that begins with its size.
    pub(crate) unsafe fn read(raw: *const RawTable, doing: &str) -> Result<Self> {
        const NEXT: &str = "take the plugin and this program from the same generation";
        if raw.is_null() {
            let why = format!("it does not speak version {VERSION} of the table");
            return Err(Error::unsupported(doing, why).next_step(NEXT));
        }
        // SAFETY: the first member is there, as the caller promises.
        let size = unsafe { (*raw).struct_size } as usize;
        if size < size_of::<RawTable>() {
            let least = size_of::<RawTable>();
            let why = format!("its table has {size} B, version {VERSION} has {least} B");
            return Err(Error::invalid(doing, why).next_step(NEXT));
        }
        // SAFETY: it is at least as large as it says, which was compared above.
        let raw = unsafe { *raw };
        if raw.version != VERSION {
            let why = format!(
                "its table is of version {}, asked for was version {VERSION}",
                raw.version
            );
            return Err(Error::unsupported(doing, why).next_step(NEXT));
        }
        let table = raw.functions(doing)?;
        let captures = [
            table.capture_begin.is_some(),
            table.capture_end.is_some(),
            table.graph_launch.is_some(),
            table.graph_drop.is_some(),
        ];
        if captures.contains(&true) && captures.contains(&false) {
            let why = "it has some of capture_begin, capture_end, graph_launch and graph_drop";
            return Err(Error::invalid(doing, why)
                .next_step("ask the vendor for all four, or none of them"));
        }
        Ok(table)
    }
}
