//! Level 0: what every device promises before it computes anything. See the docs of `hal::Device` and `hal::Stream`.

use hal::{Buffer, DType, Device, ErrorKind, Stream, View};
use ops::{CopyArgs, Plan, StridedCopy};

use crate::check::{Found, Row};
use crate::{Check, Fault, Level, Rng, Suite};

/// Sizes in bytes around the alignments of copy engines.
const SIZES: [usize; 16] = [
    0, 1, 2, 3, 5, 7, 15, 16, 17, 63, 64, 65, 255, 4095, 4097, 1_048_577,
];

const MIB: usize = 1 << 20;

/// The checks of this level.
pub(crate) fn checks() -> Vec<Check> {
    Check::table(Level::Memory, "memory", CHECKS)
}

const CHECKS: &[Row] = &[
    (
        "facts",
        "the device tells its name, parallelism and memory",
        facts,
    ),
    (
        "round_trips",
        "bytes of every size come back as they went",
        round_trips,
    ),
    (
        "odd_offsets",
        "transfers at any byte touch nothing else",
        odd_offsets,
    ),
    ("zero_size", "buffers and transfers of no bytes", zero_size),
    ("apart", "buffers do not overlap", apart),
    ("far", "both ends and the middle of a large buffer", far),
    ("strided", "a large matrix whose rows lie apart", strided),
    (
        "rules",
        "wrong sizes, gaps and foreign memory are refused",
        rules,
    ),
    (
        "out_of_memory",
        "too large an allocation is an error, and no harm",
        out_of_memory,
    ),
    ("reuse", "memory returns when its buffer is dropped", reuse),
    (
        "in_order",
        "a download sees all earlier work of its stream, and host bytes may be reused after an upload",
        in_order,
    ),
    (
        "events",
        "events keep the order of two streams, and time",
        events,
    ),
    (
        "dropped",
        "buffers dropped while their work is queued",
        dropped,
    ),
    (
        "stream_dropped",
        "a stream dropped while its work is queued",
        stream_dropped,
    ),
    ("threads", "threads share one device", threads),
    (
        "capture",
        "a capture records launches, and nothing else; a graph repeats them",
        capture,
    ),
];

fn require(holds: bool, why: impl FnOnce() -> String) -> Result<(), Fault> {
    match holds {
        true => Ok(()),
        false => Err(Fault::Wrong(why())),
    }
}

fn device(suite: &Suite) -> &dyn Device {
    &*suite.accelerator().device
}

fn pattern(label: &str, bytes: usize) -> Vec<u8> {
    let mut rng = Rng::of(label);
    (0..bytes).map(|_| rng.bits() as u8).collect()
}

fn read(stream: &mut dyn Stream, view: &View<'_>) -> hal::Result<Vec<u8>> {
    let mut bytes = vec![0xa5; view.bytes()];
    stream.download(&mut bytes, view)?;
    Ok(bytes)
}

fn facts(suite: &Suite) -> Found {
    let info = device(suite).info();
    require(!info.spec.is_empty() && !info.name.is_empty(), || {
        "the device has no spec or no name".into()
    })?;
    require(info.parallelism > 0, || {
        "nothing works in parallel, not even one".into()
    })?;
    let Some(memory) = device(suite).memory() else {
        return Ok("does not tell its memory".into());
    };
    require(
        memory.free_bytes <= memory.total_bytes && memory.total_bytes > 0,
        || format!("{memory:?}: more is free than there is"),
    )?;
    Ok(format!(
        "{} MiB, {} MiB free",
        memory.total_bytes / MIB,
        memory.free_bytes / MIB
    ))
}

fn round_trips(suite: &Suite) -> Found {
    let mut stream = device(suite).stream()?;
    for bytes in SIZES {
        let buffer = device(suite).alloc(bytes)?;
        require(
            buffer.bytes() >= bytes && buffer.device() == device(suite).info().id,
            || format!("{bytes} B were asked for, {buffer:?} was given"),
        )?;
        let view = View::new(&buffer, DType::U8, &[bytes])?;
        let sent = pattern(&format!("round trip {bytes}"), bytes);
        stream.upload(&view, &sent)?;
        require(read(&mut *stream, &view)? == sent, || {
            format!("{bytes} B came back changed")
        })?;
    }
    Ok(format!("{} sizes", SIZES.len()))
}

fn odd_offsets(suite: &Suite) -> Found {
    const BYTES: usize = 8193;
    let mut stream = device(suite).stream()?;
    let buffer = device(suite).alloc(BYTES)?;
    let whole = View::new(&buffer, DType::U8, &[BYTES])?;
    let mut image = pattern("offsets", BYTES);
    stream.upload(&whole, &image)?;
    let mut rng = Rng::of("odd offsets");
    for round in 0..200 {
        let start = rng.below(BYTES);
        let bytes = rng.below(BYTES - start + 1);
        let part = View::at(&buffer, start, DType::U8, &[bytes])?;
        let sent = pattern(&format!("part {round}"), bytes);
        stream.upload(&part, &sent)?;
        image[start..start + bytes].copy_from_slice(&sent);
        let start = rng.below(BYTES);
        let bytes = rng.below(BYTES - start + 1);
        let part = View::at(&buffer, start, DType::U8, &[bytes])?;
        require(
            read(&mut *stream, &part)? == image[start..start + bytes],
            || format!("bytes {start}..{} are not those written", start + bytes),
        )?;
    }
    require(read(&mut *stream, &whole)? == image, || {
        "a transfer touched bytes outside its view".into()
    })?;
    Ok("200 parts".into())
}

fn zero_size(suite: &Suite) -> Found {
    let mut stream = device(suite).stream()?;
    let (empty, full) = (device(suite).alloc(0)?, device(suite).alloc(16)?);
    stream.upload(&View::new(&full, DType::U8, &[16])?, &[7; 16])?;
    for view in [
        View::new(&empty, DType::U8, &[0])?,
        View::new(&full, DType::F32, &[3, 0, 2])?,
        View::at(&full, 16, DType::U8, &[0])?,
    ] {
        stream.upload(&view, &[])?;
        stream.download(&mut [], &view)?;
    }
    stream.synchronize()?;
    let seen = read(&mut *stream, &View::new(&full, DType::U8, &[16])?)?;
    require(seen == [7; 16], || {
        "an empty transfer wrote something".into()
    })?;
    Ok(String::new())
}

fn apart(suite: &Suite) -> Found {
    let mut stream = device(suite).stream()?;
    let size = |i: usize| 1 + (i * 37) % 5000;
    let buffers: hal::Result<Vec<Buffer>> =
        (0..100).map(|i| device(suite).alloc(size(i))).collect();
    let buffers = buffers?;
    let sent = |i: usize| pattern(&format!("apart {i}"), size(i));
    for (i, buffer) in buffers.iter().enumerate() {
        stream.upload(&View::new(buffer, DType::U8, &[size(i)])?, &sent(i))?;
    }
    for (i, buffer) in buffers.iter().enumerate() {
        let seen = read(&mut *stream, &View::new(buffer, DType::U8, &[size(i)])?)?;
        require(seen == sent(i), || {
            format!("buffer {i} of 100 was overwritten by another")
        })?;
    }
    Ok("100 buffers".into())
}

fn far(suite: &Suite) -> Found {
    let bytes = 96 * MIB;
    let mut stream = device(suite).stream()?;
    let buffer = device(suite).alloc(bytes)?;
    let places = [0, 64 * MIB - 3, bytes - 1001];
    for at in places {
        let view = View::at(&buffer, at, DType::U8, &[1001])?;
        stream.upload(&view, &pattern(&format!("far {at}"), 1001))?;
    }
    for at in places {
        let seen = read(&mut *stream, &View::at(&buffer, at, DType::U8, &[1001])?)?;
        require(seen == pattern(&format!("far {at}"), 1001), || {
            format!("bytes at {at} of {bytes} are not those written")
        })?;
    }
    Ok("96 MiB".into())
}

fn strided(suite: &Suite) -> Found {
    // Rows of 1000 numbers, 4099 apart: 16 MiB between the first and the last.
    let (rows, cols, stride) = (1024, 1000, 4099);
    let plan = suite.context().plan(StridedCopy { dtype: DType::I32 })?;
    let mut stream = device(suite).stream()?;
    let spread = device(suite).alloc(rows * stride * 4)?;
    let dense = device(suite).alloc(rows * cols * 4)?;
    let sent = pattern("strided", rows * stride * 4);
    stream.upload(&View::new(&spread, DType::U8, &[sent.len()])?, &sent)?;
    let x = View::strided(&spread, 0, DType::I32, &[rows, cols], &[stride, 1])?;
    let out = View::new(&dense, DType::I32, &[rows, cols])?;
    let nothing = device(suite).alloc(plan.workspace_bytes(&[out.shape(), x.shape()]))?;
    plan.run(&mut *stream, CopyArgs { out, x }, &View::of_bytes(&nothing))?;
    let seen = read(&mut *stream, &out)?;
    for (r, row) in seen.chunks_exact(cols * 4).enumerate() {
        require(*row == sent[r * stride * 4..][..cols * 4], || {
            format!("row {r} of {rows} is not the one at {} B", r * stride * 4)
        })?;
    }
    Ok(format!("{rows} rows, {} B apart", stride * 4))
}

fn rules(suite: &Suite) -> Found {
    let mut stream = device(suite).stream()?;
    let buffer = device(suite).alloc(64)?;
    let whole = View::new(&buffer, DType::U8, &[64])?;
    let sent = pattern("rules", 64);
    stream.upload(&whole, &sent)?;
    let mut refuse = |what: &str, view: &View<'_>, bytes: usize| {
        for (act, result) in [
            ("upload", stream.upload(view, &vec![0; bytes])),
            ("download", stream.download(&mut vec![0; bytes], view)),
        ] {
            let kind = result.map_err(|e| e.kind());
            require(kind == Err(ErrorKind::InvalidArgument), || {
                format!("{act} of {what} must be InvalidArgument, was {kind:?}")
            })?;
        }
        Ok::<(), Fault>(())
    };
    refuse("too few bytes", &whole, 63)?;
    refuse("too many bytes", &whole, 65)?;
    let gaps = View::strided(&buffer, 0, DType::U8, &[4, 8], &[16, 1])?;
    refuse("a view with gaps", &gaps, 32)?;
    let foreign = hal::null::NullDevice::new().alloc(64)?;
    refuse(
        "another device's memory",
        &View::new(&foreign, DType::U8, &[64])?,
        64,
    )?;
    require(read(&mut *stream, &whole)? == sent, || {
        "a refused transfer wrote something".into()
    })?;
    Ok(String::new())
}

fn out_of_memory(suite: &Suite) -> Found {
    for bytes in [1 << 60, usize::MAX / 2, usize::MAX] {
        let kind = device(suite).alloc(bytes).map_err(|e| e.kind()).err();
        require(kind == Some(ErrorKind::OutOfMemory), || {
            format!("an allocation of {bytes} B must be OutOfMemory, was {kind:?}")
        })?;
    }
    round_trips(suite)?;
    Ok("three sizes, and the device works on".into())
}

fn reuse(suite: &Suite) -> Found {
    // More than a small device has, never more than 32 MiB at once.
    let mut stream = device(suite).stream()?;
    for i in 0..256usize {
        let buffer = device(suite).alloc(16 * MIB)?;
        let view = View::at(&buffer, 16 * MIB - 64, DType::U8, &[64])?;
        stream.upload(&view, &[i as u8; 64])?;
        require(read(&mut *stream, &view)? == [i as u8; 64], || {
            format!("buffer {i} does not hold what was written")
        })?;
    }
    Ok("4 GiB in turn".into())
}

fn in_order(suite: &Suite) -> Found {
    let mut stream = device(suite).stream()?;
    let buffer = device(suite).alloc(65_537)?;
    let view = View::new(&buffer, DType::U8, &[65_537])?;
    let mut sent = Vec::new();
    for round in 0..20 {
        // Twice over, so that one overtakes the other if it can.
        for half in 0..2 {
            sent = pattern(&format!("in order {round} {half}"), 65_537);
            let mut lent = sent.clone();
            stream.upload(&view, &lent)?;
            lent.fill(0x5a);
        }
        require(read(&mut *stream, &view)? == sent, || {
            format!("round {round}: a download did not give what was uploaded last")
        })?;
    }
    Ok("20 rounds".into())
}

fn events(suite: &Suite) -> Found {
    let bytes = 4 * MIB + 1;
    let (mut first, mut second) = (device(suite).stream()?, device(suite).stream()?);
    let buffer = device(suite).alloc(bytes)?;
    let view = View::new(&buffer, DType::U8, &[bytes])?;
    let mut last = first.record()?;
    for round in 0..20u8 {
        first.upload(&view, &vec![round; bytes])?;
        let written = first.record()?;
        second.wait(&written)?;
        let seen = read(&mut *second, &view)?;
        require(seen.iter().all(|&b| b == round), || {
            format!("round {round}: the second stream did not wait for the first")
        })?;
        let done = second.record()?;
        // The next round must not overwrite what is being read.
        first.wait(&done)?;
        written.synchronize()?;
        last.synchronize()?;
        // Backwards is an error or no time at all, never a wrong number.
        written.since(&last)?;
        if let Ok(time) = last.since(&written) {
            require(time.is_zero(), || {
                format!("time runs backwards by {time:?}")
            })?;
        }
        last = written;
    }
    drop((first, second));
    // Events outlive their streams.
    last.synchronize()?;
    Ok("20 rounds".into())
}

fn copy_of_bytes(suite: &Suite) -> Result<Plan<StridedCopy>, Fault> {
    match suite.context().plan(StridedCopy { dtype: DType::U8 }) {
        Err(e) if e.kind() == ErrorKind::Unsupported => {
            Err(Fault::Unsupported("needs the copy of bytes".into()))
        }
        plan => Ok(plan?),
    }
}

fn dropped(suite: &Suite) -> Found {
    let plan = copy_of_bytes(suite)?;
    let bytes = MIB + 3;
    let (mut stream, mut other) = (device(suite).stream()?, device(suite).stream()?);
    let kept = device(suite).alloc(bytes)?;
    let out = View::new(&kept, DType::U8, &[bytes])?;
    for round in 0..20u8 {
        let sent = pattern(&format!("dropped {round}"), bytes);
        {
            let source = device(suite).alloc(bytes)?;
            let x = View::new(&source, DType::U8, &[bytes])?;
            stream.upload(&x, &sent)?;
            let workspace = device(suite).alloc(plan.workspace_bytes(&[out.shape(), x.shape()]))?;
            plan.run(
                &mut *stream,
                CopyArgs { out, x },
                &View::of_bytes(&workspace),
            )?;
        }
        // Likely the same memory, on a stream that knows nothing of the copy.
        let next = device(suite).alloc(bytes)?;
        other.upload(&View::new(&next, DType::U8, &[bytes])?, &vec![round; bytes])?;
        require(read(&mut *stream, &out)? == sent, || {
            format!("round {round}: memory was given away while a copy still read it")
        })?;
    }
    Ok("20 rounds".into())
}

fn stream_dropped(suite: &Suite) -> Found {
    let buffer = device(suite).alloc(MIB)?;
    let view = View::new(&buffer, DType::U8, &[MIB])?;
    for round in 0..5 {
        let sent = pattern(&format!("stream dropped {round}"), MIB);
        let mut stream = device(suite).stream()?;
        stream.upload(&view, &sent)?;
        let event = stream.record()?;
        drop(stream);
        event.synchronize()?;
        let mut other = device(suite).stream()?;
        other.wait(&event)?;
        require(read(&mut *other, &view)? == sent, || {
            format!("round {round}: work of a dropped stream was lost")
        })?;
    }
    Ok("5 rounds".into())
}

fn capture(suite: &Suite) -> Found {
    const BYTES: usize = 4099;
    let plan = copy_of_bytes(suite)?;
    let device = device(suite);
    let mut stream = device.stream()?;
    let no_graph = stream.end_capture().map_err(|e| e.kind()).err();
    stream.begin_capture()?;
    require(no_graph == Some(ErrorKind::InvalidArgument), || {
        format!("a capture that has not begun ended with {no_graph:?}, must be InvalidArgument")
    })?;
    require(stream.end_capture()?.launch(&mut *stream).is_ok(), || {
        "a graph of nothing must do nothing".into()
    })?;

    // a → b → c: in that order, or c does not get what a holds.
    let buffers: hal::Result<Vec<Buffer>> = (0..3).map(|_| device.alloc(BYTES)).collect();
    let buffers = buffers?;
    let views: hal::Result<Vec<View<'_>>> = buffers
        .iter()
        .map(|buffer| View::new(buffer, DType::U8, &[BYTES]))
        .collect();
    let [a, b, c] = views?[..] else {
        unreachable!("three buffers")
    };
    let workspace = device.alloc(plan.workspace_bytes(&[a.shape(), b.shape()]))?;
    let workspace = View::of_bytes(&workspace);
    let earlier = pattern("before the capture", BYTES);
    stream.upload(&a, &earlier)?;
    stream.upload(&c, &earlier)?;
    let event = stream.record()?;
    stream.begin_capture()?;
    plan.run(&mut *stream, CopyArgs { out: b, x: a }, &workspace)?;
    let empty = {
        let mut other = device.stream()?;
        other.begin_capture()?;
        other.end_capture()?
    };
    let mut bytes = vec![0; BYTES];
    for (act, result) in [
        ("a second capture", stream.begin_capture()),
        ("an upload", stream.upload(&a, &bytes)),
        ("a download", stream.download(&mut bytes, &a)),
        ("an event", stream.record().map(drop)),
        ("a wait", stream.wait(&event)),
        ("synchronize", stream.synchronize()),
        ("a graph", empty.launch(&mut *stream)),
    ] {
        let kind = result.map_err(|e| e.kind());
        require(kind == Err(ErrorKind::InvalidArgument), || {
            format!("{act} in a capture must be InvalidArgument, was {kind:?}")
        })?;
    }
    plan.run(&mut *stream, CopyArgs { out: c, x: b }, &workspace)?;
    let graph = stream.end_capture()?;
    require(read(&mut *stream, &c)? == earlier, || {
        "the captured launches were carried out".into()
    })?;

    for round in 0..10 {
        let sent = pattern(&format!("capture {round}"), BYTES);
        stream.upload(&a, &sent)?;
        graph.launch(&mut *stream)?;
        require(read(&mut *stream, &c)? == sent, || {
            format!("round {round}: a replay did not copy what the first buffer held by then")
        })?;
    }

    // On another stream, after its own is gone; not on another device.
    let event = stream.record()?;
    drop(stream);
    let mut other = device.stream()?;
    other.wait(&event)?;
    let sent = pattern("another stream", BYTES);
    other.upload(&a, &sent)?;
    graph.launch(&mut *other)?;
    require(read(&mut *other, &c)? == sent, || {
        "a replay on another stream of the device does something else".into()
    })?;
    let mut foreign = hal::null::NullDevice::new().stream()?;
    let kind = graph.launch(&mut *foreign).map_err(|e| e.kind());
    require(kind == Err(ErrorKind::InvalidArgument), || {
        format!("a replay on another device must be InvalidArgument, was {kind:?}")
    })?;

    // The graph keeps what it writes to, whoever else lets go.
    drop(buffers);
    let next = device.alloc(BYTES)?;
    let next = View::new(&next, DType::U8, &[BYTES])?;
    other.upload(&next, &sent)?;
    graph.launch(&mut *other)?;
    require(read(&mut *other, &next)? == sent, || {
        "a replay wrote to memory that was given away".into()
    })?;

    // A stream that is dropped in a capture takes it along.
    let mut half = device.stream()?;
    half.begin_capture()?;
    drop(half);
    other.synchronize()?;
    Ok("11 replays of two launches".into())
}

fn threads(suite: &Suite) -> Found {
    let device = device(suite);
    let work = |thread: usize| -> Found {
        let mut stream = device.stream()?;
        for round in 0..20 {
            let bytes = 1 + (thread * 7919 + round * 104_729) % 100_000;
            let buffer = device.alloc(bytes)?;
            let view = View::new(&buffer, DType::U8, &[bytes])?;
            let sent = pattern(&format!("thread {thread} {round}"), bytes);
            stream.upload(&view, &sent)?;
            require(read(&mut *stream, &view)? == sent, || {
                format!("thread {thread} reads what it did not write")
            })?;
        }
        Ok(String::new())
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..4).map(|i| scope.spawn(move || work(i))).collect();
        for thread in running {
            match thread.join() {
                Ok(found) => found?,
                Err(_) => return Err(Fault::Wrong("a thread panicked".into())),
            };
        }
        Ok("4 threads".into())
    })
}
