//! Memory that is dropped while work on it waits, in the two cases that the suite's level 0 does not see. The stand-in does
//! nothing before it must, and takes use of freed memory for an illegal address.

mod common;

use backend_emulator::stand_in::promises;
use hal::{Buffer, Device, View};

use common::emulated;

const BYTES: usize = 1 << 16;

/// Uses new memory on a stream of its own, which brings the order of memory up to date.
fn next(device: &dyn Device) -> Buffer {
    let buffer = device.alloc(BYTES).unwrap();
    let mut stream = device.stream().unwrap();
    stream
        .upload(&View::of_bytes(&buffer), &[1; BYTES])
        .unwrap();
    stream.synchronize().unwrap();
    buffer
}

#[test]
fn a_dropped_queue_still_uses_its_memory() {
    emulated("a_dropped_queue_still_uses_its_memory", &[], |stand_in| {
        let device = backend_cuda::open("cuda:0").unwrap().device;
        promises::dropped_queue_uses_its_memory(device);
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn work_before_a_capture_still_uses_its_memory() {
    emulated(
        "work_before_a_capture_still_uses_its_memory",
        &[],
        |stand_in| {
            let device = backend_cuda::open("cuda:0").unwrap().device;
            let buffer = device.alloc(BYTES).unwrap();
            let mut stream = device.stream().unwrap();
            stream
                .upload(&View::of_bytes(&buffer), &[7; BYTES])
                .unwrap();
            stream.begin_capture().unwrap();
            drop(buffer);
            let other = next(&*device);
            let graph = stream.end_capture().unwrap();
            stream.synchronize().unwrap();
            drop((stream, graph, other, device));
            assert_eq!(stand_in.live(), [""; 0]);
        },
    );
}
