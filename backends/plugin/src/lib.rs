//! A device that a vendor ships as a shared library, behind the C table of `include/glm_hal.h`.
//!
//! Design choices:
//! - One symbol, one versioned table, structs that only grow: a plugin in any language, without its source.
//! - A planned operation crosses as its name, its specification in JSON and its signature, once; a launch crosses as views
//!   on the caller's stack.
//! - What the plugin does not claim is composed, or is unsupported, as on any other device.
//! - The library stays loaded while anything of the device lives; after `DeviceLost` it is only asked to free.
//!
//! Who validates what: this crate checks the table, the facts of the device, every result code and that no object is
//! null; `ops` has checked the arguments of a launch. What a plugin does with its memory nobody can check: it is code in
//! this process, and is trusted like any driver.
//!
//! ```
//! let missing = backend_plugin::open("plugin:./no-such-chip.so");
//! assert_eq!(missing.unwrap_err().kind(), hal::ErrorKind::NotFound);
//! ```

mod abi;
mod chip;
mod device;
mod launch;

use std::sync::Arc;

use hal::{Error, Result};
use ops::Accelerator;

/// Opens the device that `spec` names: `plugin:` and the path of a library, then `#` and the plugin's own options if it has
/// any (`plugin:./libmychip.so#1`). A name without `/` is looked for where the system keeps libraries.
///
/// # Errors
/// `InvalidArgument` for another spec or a table with holes; `NotFound` without the library or its symbol;
/// `Unsupported` for a library that this machine cannot load, or of another version; and what the plugin reports.
pub fn open(spec: &str) -> Result<Accelerator> {
    let place = spec.strip_prefix("plugin:").unwrap_or_default();
    let (path, options) = place.rsplit_once('#').unwrap_or((place, ""));
    if path.is_empty() {
        return Err(
            Error::invalid(format!("open device '{spec}'"), "it names no library")
                .next_step("write plugin:./libmychip.so"),
        );
    }
    let chip = Arc::new(chip::Chip::open(spec, path, options)?);
    Ok(Accelerator {
        ops: launch::table(&chip),
        device: Arc::new(device::PluginDevice(chip)),
    })
}
