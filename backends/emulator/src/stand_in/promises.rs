//! What every back end keeps, whichever runtime it goes through: the bodies of its tests.

use std::sync::Arc;

use conformance::discipline::discipline;
use conformance::metamorphic::properties;
use conformance::probe::probe;
use conformance::{Catalogue, Depth, Selection, Suite};
use hal::{Device, View};
use ops::Accelerator;

/// Bytes of a buffer.
const BYTES: usize = 1 << 16;

/// Runs the checks of these levels whose names match, all if there are no names.
///
/// # Panics
/// When one does not pass, or there are few.
pub fn passes(accelerator: Accelerator, levels: &str, names: &[&str]) {
    let selection = Selection {
        levels: levels.parse().expect("the caller's own levels"),
        ops: names.iter().map(|&name| name.into()).collect(),
        depth: Depth::Standard,
        soak_seconds: None,
    };
    let catalogue = Catalogue::new(&selection, Vec::new()).expect("the caller's own names");
    assert!(catalogue.checks().len() > 10);
    let suite = Suite::new(accelerator);
    for check in catalogue.checks() {
        let outcome = check.run(&suite);
        println!("{outcome}");
        assert!(outcome.status.is_pass(), "{}: {outcome}", check.name);
    }
}

/// The device's card is what the probes find.
///
/// # Panics
/// When it is not.
pub fn card_is_right(accelerator: &Accelerator) {
    let findings = probe(accelerator).expect("the probes run");
    println!("{findings}");
    let wrong = findings.contradictions(&accelerator.device.info().numerics);
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// The same operation gives the same bits again.
///
/// # Panics
/// When it does not.
pub fn is_deterministic(accelerator: &Accelerator) {
    for found in discipline(accelerator).expect("the operations run") {
        println!("{found}");
        assert_eq!(found.deterministic, Some(true), "{found}");
    }
}

/// Every property that needs no reference holds.
///
/// # Panics
/// When one does not.
pub fn properties_hold(accelerator: &Accelerator) {
    for property in properties(accelerator) {
        assert!(property.is_fine(), "{property}");
    }
}

/// A queue that is dropped goes on using memory that is dropped after it. The stand-in takes use of freed memory for a failure.
///
/// # Panics
/// When it does not.
pub fn dropped_queue_uses_its_memory(device: Arc<dyn Device>) {
    let buffer = device.alloc(BYTES).expect("there is memory");
    let mut stream = device.stream().expect("a stream");
    stream
        .upload(&View::of_bytes(&buffer), &[7; BYTES])
        .expect("an upload");
    let uploaded = stream.record().expect("an event");
    drop(stream);
    drop(buffer);
    // New memory brings the order of memory up to date.
    let other = device.alloc(BYTES).expect("there is memory");
    let mut stream = device.stream().expect("a stream");
    stream
        .upload(&View::of_bytes(&other), &[1; BYTES])
        .expect("an upload");
    stream.synchronize().expect("the upload is done");
    uploaded.synchronize().expect("the dropped queue's is done");
}

/// A thread that never chose a device works with this one.
///
/// # Panics
/// When it does not.
pub fn another_thread_reaches(device: Arc<dyn Device>) {
    let (buffer, back) = std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let buffer = device.alloc(BYTES).expect("there is memory");
            let mut stream = device.stream().expect("a stream");
            let view = View::of_bytes(&buffer);
            stream.upload(&view, &[9; BYTES]).expect("an upload");
            let mut back = vec![0; BYTES];
            stream.download(&mut back, &view).expect("a download");
            (buffer, back)
        });
        worker.join().expect("the thread ends")
    });
    assert!(back.iter().all(|&byte| byte == 9));
    // Freed by this thread, which never chose it either.
    drop(buffer);
}
