//! Memory that is dropped while work on it waits, threads that never chose a device, streams beside each other. The stand-in does
//! nothing before it must, and takes use of freed memory for a failure of the chip. Emulated.

mod common;

use backend_emulator::stand_in::promises;
use hal::{DType, ErrorKind, View, WeightFormat};
use ops::{Context, HostWeight, Matmul, MatmulArgs};

use common::CANN;

#[test]
fn a_dropped_queue_still_uses_its_memory() {
    let name = "a_dropped_queue_still_uses_its_memory";
    CANN.emulated(name, &[], &[], |stand_in| {
        let device = backend_ascend::open("ascend:0").unwrap().device;
        promises::dropped_queue_uses_its_memory(device);
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn another_thread_reaches_the_device_too() {
    let name = "another_thread_reaches_the_device_too";
    let settings = [("STAND_IN_DEVICES", "2")];
    CANN.emulated(name, &settings, &[], |stand_in| {
        let device = backend_ascend::open("ascend:1").unwrap().device;
        promises::another_thread_reaches(device);
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn memory_that_is_no_packed_weight_is_refused() {
    let name = "memory_that_is_no_packed_weight_is_refused";
    CANN.emulated(name, &[], &[], |stand_in| {
        let context = Context::new(backend_ascend::open("ascend:0").unwrap());
        let device = context.device().clone();
        let spec = Matmul::new(8, 8, DType::F32, WeightFormat::Int8Row);
        let plan = context.plan(spec).unwrap();
        let [out, x, weight] = [256, 256, 64].map(|bytes| device.alloc(bytes).unwrap());
        let workspace = device.alloc(1 << 16).unwrap();
        let args = MatmulArgs {
            out: View::new(&out, DType::F32, &[8, 8]).unwrap(),
            x: View::new(&x, DType::F32, &[8, 8]).unwrap(),
            weight: View::of_bytes(&weight),
            bias: None,
            residual: None,
        };
        let mut stream = device.stream().unwrap();
        let e = plan
            .run(&mut *stream, args, &View::of_bytes(&workspace))
            .unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidArgument, "{e}");
        drop((out, x, weight, workspace, stream, plan, context, device));
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

/// Buffers go right after their launch was queued, and two streams queue by turns: each has scratch memory of its own.
#[test]
fn buffers_may_go_when_their_launch_is_queued() {
    let name = "buffers_may_go_when_their_launch_is_queued";
    CANN.emulated(name, &[], &[], |stand_in| {
        let context = Context::new(backend_ascend::open("ascend:0").unwrap());
        let device = context.device().clone();
        let (n, k) = (24, 40);
        let plan = context
            .plan(Matmul::new(n, k, DType::F32, WeightFormat::Int8Row))
            .unwrap();
        let integers: Vec<u8> = (0..n * k).map(|i| (i % 5) as u8).collect();
        let scales: Vec<u8> = [0.5f32.to_le_bytes()].concat().repeat(n);
        let weight = HostWeight::new(WeightFormat::Int8Row, n, k, integers, scales).unwrap();
        let weight = plan.pack(&weight).unwrap();
        let mut streams = [device.stream().unwrap(), device.stream().unwrap()];
        let mut outs = Vec::new();
        for round in 0..6usize {
            let m = 1 + round;
            let x = device.alloc(m * k * 4).unwrap();
            let out = device.alloc(m * n * 4).unwrap();
            let shapes: [&[usize]; 3] = [&[m, n], &[m, k], &[weight.bytes()]];
            let workspace = device.alloc(plan.workspace_bytes(&shapes)).unwrap();
            let stream = &mut streams[round % 2];
            let ones = 1f32.to_le_bytes().repeat(m * k);
            stream.upload(&View::of_bytes(&x), &ones).unwrap();
            let args = MatmulArgs {
                out: View::new(&out, DType::F32, &[m, n]).unwrap(),
                x: View::new(&x, DType::F32, &[m, k]).unwrap(),
                weight: View::of_bytes(&weight),
                bias: None,
                residual: None,
            };
            plan.run(&mut **stream, args, &View::of_bytes(&workspace))
                .unwrap();
            outs.push(out);
        }
        for (round, out) in outs.iter().enumerate() {
            let mut back = vec![0; out.bytes()];
            streams[round % 2]
                .download(&mut back, &View::of_bytes(out))
                .unwrap();
            let column: f32 = (0..k).map(|i| (i % 5) as f32 * 0.5).sum();
            for bytes in back.chunks_exact(4) {
                assert_eq!(f32::from_le_bytes(bytes.try_into().unwrap()), column);
            }
        }
        drop((outs, streams, weight, plan, context, device));
        assert_eq!(stand_in.live(), [""; 0]);
    });
}
