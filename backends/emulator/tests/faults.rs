//! What the emulator does wrong when told to, and what it is like.

use hal::{DType, ErrorKind, Result, View};
use ops::{Context, CopyArgs, StridedCopy};

fn open(spec: &str) -> ops::Accelerator {
    backend_emulator::open(spec).unwrap()
}

fn kind<T>(result: Result<T>) -> ErrorKind {
    result.map(drop).unwrap_err().kind()
}

/// Uploads four numbers, copies them on the device, and downloads them.
fn round_trip(accelerator: &ops::Accelerator) -> Result<Vec<u8>> {
    let device = &accelerator.device;
    let (a, b) = (device.alloc(16)?, device.alloc(16)?);
    let mut stream = device.stream()?;
    let view = |buffer| View::new(buffer, DType::F32, &[4]);
    let bytes: Vec<u8> = (0..16).collect();
    stream.upload(&view(&a)?, &bytes)?;
    let plan = Context::new(accelerator.clone()).plan(StridedCopy { dtype: DType::F32 })?;
    let args = CopyArgs {
        out: view(&b)?,
        x: view(&a)?,
    };
    plan.run(&mut *stream, args, &View::of_bytes(&b))?;
    let mut back = vec![0; 16];
    stream.download(&mut back, &view(&b)?)?;
    Ok(back)
}

#[test]
fn works_at_once_and_in_queues() {
    for spec in ["emulator", "emulator:async", "emulator:oom@3,lost@4"] {
        assert_eq!(
            round_trip(&open(spec)).unwrap(),
            (0..16).collect::<Vec<u8>>(),
            "{spec}"
        );
    }
}

#[test]
fn memory_ends_with_a_typed_error_and_comes_back() {
    let device = open("emulator:mem64k").device;
    let half = device.alloc(40 << 10).unwrap();
    assert_eq!(device.memory().unwrap().free_bytes, 24 << 10);
    assert_eq!(kind(device.alloc(40 << 10)), ErrorKind::OutOfMemory);
    assert_eq!(kind(device.alloc(usize::MAX)), ErrorKind::OutOfMemory);
    drop(half);
    assert!(device.alloc(64 << 10).is_ok());
    // Memory is not zeroed.
    let device = open("emulator").device;
    let buffer = device.alloc(4).unwrap();
    let mut bytes = [0; 4];
    let mut stream = device.stream().unwrap();
    stream
        .download(&mut bytes, &View::of_bytes(&buffer))
        .unwrap();
    assert_ne!(bytes, [0; 4]);
}

#[test]
fn the_nth_allocation_fails_once() {
    let device = open("emulator:oom@2").device;
    assert!(device.alloc(1).is_ok());
    assert_eq!(kind(device.alloc(1)), ErrorKind::OutOfMemory);
    assert!(device.alloc(1).is_ok());
}

/// At every act of a round trip: from then on every call fails, for good.
#[test]
fn a_lost_device_stays_lost() {
    for spec in [
        "emulator:lost@1",
        "emulator:lost@2,async",
        "emulator:lost@3",
    ] {
        let accelerator = open(spec);
        let mut old = accelerator.device.stream().unwrap();
        let event = old.record().unwrap();
        let buffer = accelerator.device.alloc(4).unwrap();
        assert_eq!(
            kind(round_trip(&accelerator)),
            ErrorKind::DeviceLost,
            "{spec}"
        );
        let whole = View::of_bytes(&buffer);
        for wrong in [
            kind(round_trip(&accelerator)),
            kind(accelerator.device.alloc(1)),
            kind(accelerator.device.stream()),
            kind(old.upload(&whole, &[0; 4])),
            kind(old.download(&mut [0; 4], &whole)),
            kind(old.record()),
            kind(old.wait(&event)),
            kind(old.synchronize()),
            kind(event.synchronize()),
            kind(Context::new(accelerator.clone()).plan(StridedCopy { dtype: DType::F32 })),
        ] {
            assert_eq!(wrong, ErrorKind::DeviceLost, "{spec}");
        }
    }
}

#[test]
fn queued_work_waits_until_it_is_needed() {
    let device = open("emulator:async").device;
    let buffer = device.alloc(4).unwrap();
    let whole = View::of_bytes(&buffer);
    let (mut writer, mut reader) = (device.stream().unwrap(), device.stream().unwrap());
    let read = |reader: &mut Box<dyn hal::Stream>| {
        let mut bytes = [0; 4];
        reader.download(&mut bytes, &whole).unwrap();
        bytes
    };
    writer.upload(&whole, &[1, 2, 3, 4]).unwrap();
    let start = writer.record().unwrap();
    // Nothing orders the two streams yet.
    assert_ne!(read(&mut reader), [1, 2, 3, 4]);
    let end = writer.record().unwrap();
    assert_eq!(kind(end.since(&start)), ErrorKind::InvalidArgument);
    reader.wait(&end).unwrap();
    assert_eq!(read(&mut reader), [1, 2, 3, 4]);
    assert!(end.since(&start).is_ok());
}

#[test]
fn what_is_misaligned_is_refused_where_the_device_cannot_take_it() {
    let accelerator = open("emulator:align64");
    let buffer = accelerator.device.alloc(256).unwrap();
    let mut stream = accelerator.device.stream().unwrap();
    let plan = Context::new(accelerator)
        .plan(StridedCopy { dtype: DType::F32 })
        .unwrap();
    let at = |offset| View::at(&buffer, offset, DType::F32, &[4]).unwrap();
    let mut run = |from| {
        let args = CopyArgs {
            out: at(128),
            x: at(from),
        };
        plan.run(&mut *stream, args, &View::of_bytes(&buffer))
    };
    assert!(run(64).is_ok());
    assert_eq!(kind(run(4)), ErrorKind::Unsupported);
}

#[test]
fn a_spec_is_understood_or_refused() {
    for spec in [
        "emulator:fast",
        "emulator:wave0",
        "emulator:mem1t",
        "emulator:oom@x",
    ] {
        let error = backend_emulator::open(spec).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{spec}");
    }
    let words = backend_emulator::open("emulator:fast")
        .unwrap_err()
        .to_string();
    assert!(
        words.contains("waveN") && words.contains("lost@N"),
        "{words}"
    );
}
