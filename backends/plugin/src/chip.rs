//! The library, its device, and how it is called: what everything of one device shares.

use std::ffi::CString;
use std::path::Path;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};

use hal::{DeviceId, DeviceInfo, Error, ErrorKind, Numerics, Result};
use libloading::Library;

use crate::abi::{self, Handle, RawError, RawInfo, RawTable, Table};

/// An object of the plugin, not null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Object(pub(crate) Handle);

// SAFETY: the table's contract lets every object travel between threads; which calls may run concurrently it says per
// function, and the callers keep to it.
unsafe impl Send for Object {}
// SAFETY: as above.
unsafe impl Sync for Object {}

#[derive(Debug)]
pub(crate) struct Chip {
    pub(crate) table: Table,
    pub(crate) device: Object,
    pub(crate) info: DeviceInfo,
    lost: AtomicBool,
    /// Dropped last: the table's functions lie in it.
    _library: Library,
}

impl Drop for Chip {
    fn drop(&mut self) {
        // SAFETY: everything of this device holds the chip, so nothing of it is left.
        unsafe { (self.table.device_close)(self.device.0) }
    }
}

impl Chip {
    pub(crate) fn open(spec: &str, path: &str, options: &str) -> Result<Self> {
        let doing = format!("open device '{spec}'");
        let library = load(&doing, path)?;
        type Entry = unsafe extern "C" fn(u32) -> *const RawTable;
        // SAFETY: the symbol is of this type, as the header says.
        let entry = unsafe { library.get::<Entry>(b"glm_hal_plugin\0") }.map_err(|e| {
            let why = format!("{path} exports no glm_hal_plugin");
            Error::new(ErrorKind::NotFound, doing.clone(), why)
                .next_step("name a library that was built against glm_hal.h")
                .with_source(e)
        })?;
        // SAFETY: the call takes any version.
        let raw = unsafe { entry(abi::VERSION) };
        // SAFETY: null, or a table that begins with its size and stays while the library is loaded.
        let table = unsafe { Table::read(raw, &doing)? };
        let options = CString::new(options)
            .map_err(|_| Error::invalid(doing.clone(), "the options have a zero byte"))?;
        let lost = AtomicBool::new(false);
        let device = make(&lost, &doing, "device_open", |device, error| {
            // SAFETY: a text with its end, and places to write to.
            unsafe { (table.device_open)(options.as_ptr(), device, error) }
        })?;
        let mut chip = Self {
            table,
            device,
            info: unknown(spec),
            lost,
            _library: library,
        };
        // From here on dropping the chip closes the device.
        let mut raw = RawInfo::new();
        chip.call(&doing, "device_info", |error| {
            // SAFETY: the device was just opened.
            unsafe { (chip.table.device_info)(device.0, &mut raw, error) }
        })?;
        chip.info = facts(chip.info.clone(), &raw, &doing)?;
        Ok(chip)
    }

    pub(crate) fn id(&self) -> DeviceId {
        self.info.id
    }

    /// Calls the function `name` of the table.
    pub(crate) fn call(
        &self,
        doing: &str,
        name: &str,
        f: impl FnOnce(*mut RawError) -> u32,
    ) -> Result<()> {
        call(&self.lost, doing, name, f)
    }

    /// Calls the function `name` of the table, which makes an object.
    pub(crate) fn make(
        &self,
        doing: &str,
        name: &str,
        f: impl FnOnce(*mut Handle, *mut RawError) -> u32,
    ) -> Result<Object> {
        make(&self.lost, doing, name, f)
    }
}

fn load(doing: &str, path: &str) -> Result<Library> {
    // SAFETY: a library's initialisers run now; the user named it, and trusts it like any driver.
    unsafe { Library::new(path) }.map_err(|e| {
        let there = Path::new(path).exists();
        let error = match there {
            true => Error::unsupported(doing, format!("{path} cannot be loaded: {e}")).next_step(
                "take a library for this system and processor, and install what it depends on",
            ),
            false => Error::new(ErrorKind::NotFound, doing, format!("there is no {path}"))
                .next_step("write the library's path: plugin:./libmychip.so"),
        };
        error.with_source(e)
    })
}

fn call(
    lost: &AtomicBool,
    doing: &str,
    name: &str,
    f: impl FnOnce(*mut RawError) -> u32,
) -> Result<()> {
    if lost.load(Ordering::Acquire) {
        return Err(
            Error::new(ErrorKind::DeviceLost, doing, "the device was lost before")
                .next_step("open the device again"),
        );
    }
    let mut error = RawError::new();
    let code = f(&mut error);
    if code == abi::OK {
        return Ok(());
    }
    let kind = abi::kind(code);
    if kind == ErrorKind::DeviceLost {
        lost.store(true, Ordering::Release);
    }
    let why = match error.text() {
        text if text.is_empty() => "it did not say why".to_string(),
        text => text,
    };
    let next = match kind {
        ErrorKind::OutOfMemory => "choose a smaller model, --dtype or context",
        ErrorKind::DeviceLost => "open the device again",
        ErrorKind::Unsupported => "choose another dtype, option or device",
        _ => "report this to the vendor of the plugin",
    };
    let why = format!("the plugin's {name} gave code {code}: {why}");
    Err(Error::new(kind, doing, why).next_step(next))
}

fn make(
    lost: &AtomicBool,
    doing: &str,
    name: &str,
    f: impl FnOnce(*mut Handle, *mut RawError) -> u32,
) -> Result<Object> {
    let mut object = null_mut();
    call(lost, doing, name, |error| f(&mut object, error))?;
    match object.is_null() {
        false => Ok(Object(object)),
        true => {
            let why = format!("the plugin's {name} gave no error, and no object");
            Err(Error::new(ErrorKind::Unexpected, doing, why)
                .next_step("report this to the vendor of the plugin"))
        }
    }
}

fn unknown(spec: &str) -> DeviceInfo {
    DeviceInfo {
        id: DeviceId::new(),
        spec: spec.into(),
        name: String::new(),
        detail: String::new(),
        parallelism: 1,
        native_floats: Vec::new(),
        numerics: Numerics::exact(),
        long_pages: false,
    }
}

/// The facts that the plugin gave, checked.
fn facts(info: DeviceInfo, raw: &RawInfo, doing: &str) -> Result<DeviceInfo> {
    let wrong = |field: &str, value: &dyn std::fmt::Display| {
        Error::invalid(
            doing,
            format!("the plugin's device_info gives {field} {value}"),
        )
        .next_step("report this to the vendor of the plugin")
    };
    let set = |field: &str, set: u32| abi::floats(set).ok_or_else(|| wrong(field, &set));
    let accumulator = abi::dtype(raw.accumulator).filter(|dtype| dtype.is_float());
    let numerics = Numerics {
        accumulator: accumulator.ok_or_else(|| wrong("accumulator", &raw.accumulator))?,
        operand_bits: raw.operand_bits,
        rounds_probabilities: raw.rounds_probabilities != 0,
        rounds_weights: raw.rounds_weights != 0,
        rounds_activations: false,
        int8_cache: false,
        flushes: set("flushes", raw.flushes)?,
        floats: set("floats", raw.floats)?,
    };
    if ![24, 11, 8].contains(&raw.operand_bits) {
        return Err(wrong("operand_bits", &raw.operand_bits));
    }
    if raw.parallelism == 0 {
        return Err(wrong("parallelism", &0));
    }
    let name = abi::text(&raw.name);
    if name.is_empty() {
        return Err(wrong("name", &"''"));
    }
    Ok(DeviceInfo {
        name,
        detail: abi::text(&raw.detail),
        parallelism: raw.parallelism as usize,
        native_floats: set("native_floats", raw.native_floats)?,
        numerics,
        ..info
    })
}
