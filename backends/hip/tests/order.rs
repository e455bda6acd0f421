//! Memory that is dropped while work on it waits, and threads that never chose a device. The stand-in does nothing before it
//! must, takes use of freed memory for an illegal address, and has no device for a thread that chose none.

mod common;

use backend_emulator::stand_in::promises;

use common::AMD;

#[test]
fn a_dropped_queue_still_uses_its_memory() {
    let name = "a_dropped_queue_still_uses_its_memory";
    AMD.emulated(name, &[], &[], |stand_in| {
        let device = backend_hip::open("hip:0").unwrap().device;
        promises::dropped_queue_uses_its_memory(device);
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn another_thread_reaches_the_device_too() {
    let name = "another_thread_reaches_the_device_too";
    let settings = [("STAND_IN_DEVICES", "2")];
    AMD.emulated(name, &settings, &[], |stand_in| {
        let device = backend_hip::open("hip:1").unwrap().device;
        promises::another_thread_reaches(device);
        assert_eq!(stand_in.live(), [""; 0]);
    });
}
