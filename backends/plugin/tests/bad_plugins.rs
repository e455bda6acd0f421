//! Plugins with something wrong end in typed errors that name it.

mod common;

use hal::{DType, Error, ErrorKind, Result, View, WeightFormat};
use ops::{Context, HostWeight, Matmul, MatmulArgs};

/// Opens `tests/bad.c` with these definitions; `None` without a C compiler.
fn opened(defines: &[&str]) -> Option<Result<ops::Accelerator>> {
    let folder = tempfile::tempdir().unwrap();
    let library = common::library(folder.path(), "tests/bad.c", defines)?;
    Some(backend_plugin::open(&format!(
        "plugin:{}",
        library.display()
    )))
}

fn expect(case: &str, e: &Error, kind: ErrorKind, says: &str) {
    assert_eq!(e.kind(), kind, "{case}: {e}");
    assert!(e.to_string().contains(says), "{case}: {e}");
    assert!(e.next().is_some(), "{case}: {e}");
}

#[test]
fn what_cannot_be_opened_says_why() {
    use ErrorKind::{InvalidArgument, NotFound, Unsupported};
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.so");
    std::fs::write(&text, "no library").unwrap();
    for (spec, kind, says) in [
        ("plugin", InvalidArgument, "names no library"),
        ("plugin:", InvalidArgument, "names no library"),
        ("plugin:#1", InvalidArgument, "names no library"),
        ("plugin:./none.so", NotFound, "there is no ./none.so"),
        (
            &format!("plugin:{}", text.display()),
            Unsupported,
            "cannot be loaded",
        ),
    ] {
        expect(spec, &backend_plugin::open(spec).unwrap_err(), kind, says);
    }
    for (defines, kind, says) in [
        (&["-DNO_SYMBOL"][..], NotFound, "glm_hal_plugin"),
        (&["-DNO_TABLE"], Unsupported, "version 1"),
        (&["-DVERSION_IS=2"], Unsupported, "version 2"),
        (&["-DSIZE_IS=4"], InvalidArgument, "has 4 B"),
        (
            &["-DSIZE_IS=sizeof(glm_hal_table)-8"],
            InvalidArgument,
            "B, version 1 has",
        ),
        (
            &["-DFACT=parallelism", "-DVALUE=0"],
            InvalidArgument,
            "parallelism",
        ),
        (
            &["-DFACT=accumulator", "-DVALUE=5"],
            InvalidArgument,
            "accumulator",
        ),
        (&["-DFACT=floats", "-DVALUE=64"], InvalidArgument, "floats"),
        (
            &["-DFACT=operand_bits", "-DVALUE=7"],
            InvalidArgument,
            "operand_bits",
        ),
        (&["-DFACT=name[0]", "-DVALUE=0"], InvalidArgument, "name"),
    ] {
        let Some(found) = opened(defines) else { return };
        expect(&defines.join(" "), &found.unwrap_err(), kind, says);
    }
}

#[test]
fn functions_that_are_missing_are_named() {
    for entry in [
        "device_open",
        "device_close",
        "device_info",
        "buffer_alloc",
        "buffer_free",
        "stream_open",
        "stream_drop",
        "upload",
        "download",
        "synchronize",
        "event_record",
        "event_drop",
        "event_wait",
        "event_synchronize",
        "event_elapsed",
        "op_claimed",
        "plan",
        "plan_drop",
        "launch",
        // One of four.
        "graph_launch",
    ] {
        let Some(found) = opened(&[&format!("-DMISSING={entry}")]) else {
            return;
        };
        let e = found.unwrap_err();
        expect(entry, &e, ErrorKind::InvalidArgument, entry);
    }
    // Without it weights cannot be packed, and the rest works.
    let Some(found) = opened(&["-DMISSING=plan_pack"]) else {
        return;
    };
    let e = product(found.unwrap()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
    assert!(e.to_string().contains("plan_pack"), "{e}");
}

/// A product of ones, by way of every function of the table.
fn product(accelerator: ops::Accelerator) -> Result<()> {
    let context = Context::new(accelerator);
    let op = Matmul::new(2, 3, DType::F32, WeightFormat::Dense(DType::F32));
    let plan = context.plan(op)?;
    let ones = |n: usize| 1f32.to_le_bytes().repeat(n);
    let weight = HostWeight::new(
        WeightFormat::Dense(DType::F32),
        2,
        3,
        ones(6),
        Vec::<u8>::new(),
    )?;
    let weight = plan.pack(&weight)?;
    let device = context.device();
    let (mut stream, mut other) = (device.stream()?, device.stream()?);
    let (x, out) = (device.alloc(12)?, device.alloc(8)?);
    let start = stream.record()?;
    stream.upload(&View::new(&x, DType::F32, &[1, 3])?, &ones(3))?;
    let args = MatmulArgs {
        out: View::new(&out, DType::F32, &[1, 2])?,
        x: View::new(&x, DType::F32, &[1, 3])?,
        weight: View::of_bytes(&weight),
        bias: None,
        residual: None,
    };
    let workspace = View::of_bytes(&x).slice(0, 0..0)?;
    stream.begin_capture()?;
    plan.run(&mut *stream, args, &workspace)?;
    let graph = stream.end_capture()?;
    graph.launch(&mut *stream)?;
    let end = stream.record()?;
    other.wait(&end)?;
    end.synchronize()?;
    end.since(&start)?;
    let mut got = [0; 8];
    other.download(&mut got, &args.out)?;
    other.synchronize()?;
    assert_eq!(got[..], *3f32.to_le_bytes().repeat(2));
    Ok(())
}

/// Every function that gives a code.
const FALLIBLE: [&str; 17] = [
    "device_open",
    "device_info",
    "buffer_alloc",
    "stream_open",
    "upload",
    "download",
    "synchronize",
    "event_record",
    "event_wait",
    "event_synchronize",
    "event_elapsed",
    "plan",
    "plan_pack",
    "launch",
    "capture_begin",
    "capture_end",
    "graph_launch",
];

#[test]
fn the_good_plugin_passes_the_same_way() {
    if let Some(found) = opened(&[]) {
        product(found.unwrap()).unwrap();
    }
}

#[test]
fn codes_become_kinds_whatever_call_gives_them() {
    let kinds = [
        (3, ErrorKind::OutOfMemory),
        (4, ErrorKind::DeviceLost),
        (99, ErrorKind::Unexpected),
    ];
    for (i, entry) in FALLIBLE.into_iter().enumerate() {
        let (code, kind) = kinds[i % kinds.len()];
        let defines = [
            &*format!("-DFAILING={entry}"),
            &format!("-DCODE={code}"),
            "-DENDLESS",
        ];
        let Some(found) = opened(&defines) else {
            return;
        };
        let e = found.and_then(product).unwrap_err();
        expect(entry, &e, kind, entry);
        assert!(e.detail().ends_with(&"x".repeat(512)), "{entry}: {e}");
    }
    // Without a text.
    if let Some(found) = opened(&["-DFAILING=launch", "-DCODE=8"]) {
        let e = found.and_then(product).unwrap_err();
        expect("launch", &e, ErrorKind::Numeric, "did not say why");
    }
}

#[test]
fn objects_that_are_null_are_errors() {
    for entry in [
        "device_open",
        "buffer_alloc",
        "stream_open",
        "event_record",
        "plan",
        "plan_pack",
        "capture_end",
    ] {
        let Some(found) = opened(&[&format!("-DFAILING={entry}"), "-DCODE=0"]) else {
            return;
        };
        let e = found.and_then(product).unwrap_err();
        expect(entry, &e, ErrorKind::Unexpected, entry);
    }
}

#[test]
fn a_lost_device_stays_lost() {
    let Some(found) = opened(&["-DFAILING=synchronize", "-DCODE=4"]) else {
        return;
    };
    let accelerator = found.unwrap();
    let device = &accelerator.device;
    let buffer = device.alloc(16).unwrap();
    let mut stream = device.stream().unwrap();
    let event = stream.record().unwrap();
    assert_eq!(
        stream.synchronize().unwrap_err().kind(),
        ErrorKind::DeviceLost
    );
    for e in [
        device.alloc(16).unwrap_err(),
        device.stream().unwrap_err(),
        stream
            .upload(&View::of_bytes(&buffer), &[0; 16])
            .unwrap_err(),
        stream.record().unwrap_err(),
        event.synchronize().unwrap_err(),
    ] {
        expect("after the loss", &e, ErrorKind::DeviceLost, "lost before");
    }
}

#[test]
fn an_unsupported_plan_is_the_next_step_of_the_ladder() {
    let Some(found) = opened(&["-DFAILING=plan", "-DCODE=1"]) else {
        return;
    };
    let e = product(found.unwrap()).unwrap_err();
    expect("plan", &e, ErrorKind::Unsupported, "cannot be composed");
}
