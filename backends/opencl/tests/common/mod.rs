//! The devices that tests open.

use ops::Accelerator;

/// Runs `test` on every OpenCL device; without one says so, or fails when `REQUIRE_DEVICE` names `opencl`.
pub(crate) fn each_device(test: impl Fn(Accelerator)) {
    let found = backend_opencl::devices();
    let none = match &found {
        Ok(found) if !found.is_empty() => None,
        Ok(_) => Some("no OpenCL device".to_string()),
        Err(e) if e.kind() == hal::ErrorKind::NotFound => Some(e.to_string()),
        Err(e) => panic!("{e:?}"),
    };
    if let Some(why) = none {
        return conformance::skip("opencl", why);
    }
    for device in found.into_iter().flatten() {
        println!("{}: {}", device.spec, device.name);
        test(backend_opencl::open(&device.spec).unwrap());
    }
}
