//! The vendor's own runtime and compiler, on a machine without a device.

use backend_hip::Hiprtc;
use backend_simt::Source;
use conformance::skip;
use hal::ErrorKind;

#[test]
fn without_a_device_the_runtime_says_so() {
    let libraries = backend_hip::libraries();
    println!("{libraries}");
    let found = libraries
        .driver
        .iter()
        .find(|place| place.problem.is_none());
    let e = match backend_hip::devices() {
        Ok(devices) => return skip("without-hip", format!("there are devices: {devices:?}")),
        Err(e) => e,
    };
    println!("{e}");
    assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
    assert!(!e.to_string().contains('\n'), "{e}");
    let opened = backend_hip::open("hip:0").unwrap_err();
    assert_eq!(opened.kind(), ErrorKind::NotFound, "{opened}");
    assert!(opened.to_string().contains("hip:0"), "{opened}");
    match found {
        Some(_) => {
            assert!(e.detail().starts_with("HIP error 10"), "{e}");
            assert!(e.next().unwrap().contains("/dev/kfd"), "{e}");
        }
        None => {
            assert!(e.to_string().contains("system's loader was asked"), "{e}");
            skip("hip-runtime", e);
        }
    }
}

#[test]
fn the_compiler_gives_code_or_a_log() {
    let hiprtc = match Hiprtc::find() {
        Ok(hiprtc) => hiprtc,
        Err(e) => return skip("hiprtc", e),
    };
    println!("{} {:?}", hiprtc.path().display(), hiprtc.version());
    let source = Source {
        name: "double",
        parts: &["extern \"C\" __global__ void twice(float *x) { x[threadIdx.x] *= FACTOR; }"],
        begins_early: false,
    };
    let compile = |source: &Source, factor: &str| {
        hiprtc.compile(
            source,
            &[("FACTOR", factor.into())],
            "gfx906:sramecc-:xnack-",
            &[],
        )
    };
    let compiled = compile(&source, "2.0f").unwrap();
    assert!(compiled.code.starts_with(b"\x7fELF"));
    let e = compile(&source, "undeclared_name").unwrap_err();
    assert_eq!(e.kind(), ErrorKind::CompileFailed);
    let text = e.to_string();
    for part in [
        "undeclared_name",
        "compile double",
        "gfx906:sramecc-:xnack-",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let zero = Source {
        parts: &["\0"],
        begins_early: false,
        ..source
    };
    let e = compile(&zero, "1").unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidArgument);
}
