//! Memory that is dropped while work on it waits, and threads that never chose a device. The stand-in does nothing before it
//! must, takes use of freed memory for an illegal address, and has no device for a thread that chose none.

mod common;

use hal::View;

use common::AMD;

const BYTES: usize = 1 << 16;

#[test]
fn a_dropped_queue_still_uses_its_memory() {
    let name = "a_dropped_queue_still_uses_its_memory";
    AMD.emulated(name, &[], &[], |stand_in| {
        let device = backend_hip::open("hip:0").unwrap().device;
        let buffer = device.alloc(BYTES).unwrap();
        let mut stream = device.stream().unwrap();
        stream
            .upload(&View::of_bytes(&buffer), &[7; BYTES])
            .unwrap();
        let uploaded = stream.record().unwrap();
        drop(stream);
        drop(buffer);
        let other = device.alloc(BYTES).unwrap();
        let mut stream = device.stream().unwrap();
        stream.upload(&View::of_bytes(&other), &[1; BYTES]).unwrap();
        stream.synchronize().unwrap();
        uploaded.synchronize().unwrap();
        drop((stream, uploaded, other, device));
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn another_thread_reaches_the_device_too() {
    let name = "another_thread_reaches_the_device_too";
    let settings = [("STAND_IN_DEVICES", "2")];
    AMD.emulated(name, &settings, &[], |stand_in| {
        let device = backend_hip::open("hip:1").unwrap().device;
        let (buffer, back) = std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let buffer = device.alloc(BYTES).unwrap();
                let mut stream = device.stream().unwrap();
                let view = View::of_bytes(&buffer);
                stream.upload(&view, &[9; BYTES]).unwrap();
                let mut back = vec![0; BYTES];
                stream.download(&mut back, &view).unwrap();
                (buffer, back)
            });
            worker.join().unwrap()
        });
        assert!(back.iter().all(|&byte| byte == 9));
        drop((buffer, device));
        assert_eq!(stand_in.live(), [""; 0]);
    });
}
