//! The conformance suite on every wgpu adapter of this machine: level 0 (memory and streams), then every operation.

use std::sync::OnceLock;

use backend_wgpu::Options;
use conformance::discipline::{discipline, streams};
use conformance::metamorphic::properties;
use conformance::probe::probe;
use conformance::{Catalogue, Depth, Selection, Status, Suite};
use ops::Accelerator;

/// Every adapter, opened once; `None`, with a word on stdout, when there is none.
fn accelerators() -> &'static [Accelerator] {
    static ALL: OnceLock<Vec<Accelerator>> = OnceLock::new();
    ALL.get_or_init(|| {
        let required = std::env::var("REQUIRE_DEVICE").unwrap_or_default();
        match backend_wgpu::devices() {
            Ok(adapters) => adapters
                .iter()
                .map(|adapter| {
                    backend_wgpu::open(&adapter.spec)
                        .unwrap_or_else(|e| panic!("{}: {e:?}", adapter.spec))
                })
                .collect(),
            Err(e) if required.split(',').any(|name| name == "wgpu") => panic!("{e}"),
            Err(e) => {
                println!("SKIPPED: {e}");
                Vec::new()
            }
        }
    })
}

#[test]
fn memory_and_streams() {
    let selection = Selection {
        levels: "0".parse().unwrap(),
        ops: Vec::new(),
        depth: Depth::Standard,
    };
    let catalogue = Catalogue::new(&selection, Vec::new()).unwrap();
    for accelerator in accelerators() {
        let info = accelerator.device.info();
        println!("{} {}: {}", info.spec, info.name, info.detail);
        let suite = Suite::new(accelerator.clone());
        for check in catalogue.checks() {
            let outcome = check.run(&suite);
            println!(
                "{} {:?} {:.2} s {}",
                check.name, outcome.status, outcome.seconds, outcome.why
            );
            assert!(outcome.status <= Status::PassWeak, "{outcome}");
        }
    }
}

/// What the card says is what the probes find, results do not depend on the run, and streams keep their promises.
#[test]
fn arithmetic_and_discipline() {
    for accelerator in accelerators() {
        let info = accelerator.device.info();
        let findings = probe(accelerator).unwrap();
        println!("{}\n{findings}", info.spec);
        let wrong = findings.contradictions(&info.numerics);
        assert!(wrong.is_empty(), "{}: {wrong:?}", info.spec);
        for found in discipline(accelerator).unwrap() {
            println!("{found}");
            assert_eq!(found.deterministic, Some(true), "{}: {found}", info.spec);
        }
        for (promise, kept) in streams(accelerator) {
            assert_eq!(kept, Ok(()), "{}: {promise}", info.spec);
        }
    }
}

#[test]
fn every_property_holds() {
    for accelerator in accelerators() {
        for property in properties(accelerator) {
            assert!(property.is_fine(), "{property}");
        }
    }
}

macro_rules! each_op {
    ($($name:ident $op:ident),*) => {
        $(#[test]
        fn $name() {
            for accelerator in accelerators() {
                let start = std::time::Instant::now();
                let report = Suite::new(accelerator.clone()).run::<ops::$op>();
                println!("{}: {report}, {:.1} s", accelerator.device.info().spec, start.elapsed().as_secs_f64());
                report.require_pass().unwrap();
            }
        })*
    };
}
conformance::for_each_op!(each_op);

/// A tenth of the cases without what an adapter may lack: sub-groups, immediates.
macro_rules! plain {
    ($($name:ident $op:ident),*) => {
        #[test]
        fn plain_adapters_conform() {
            let Some(first) = accelerators().first() else { return };
            let options = Options { subgroups: false, immediates: false };
            let spec = &first.device.info().spec;
            let suite = Suite::new(backend_wgpu::open_with(spec, &options).unwrap());
            $(
                let report = suite.run_where::<ops::$op>(|case| case.id().len() % 10 == 0);
                report.require_pass().unwrap();
            )*
        }
    };
}
conformance::for_each_op!(plain);
