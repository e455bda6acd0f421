//! The conformance suite on every wgpu adapter of this machine: level 0 (memory and streams), then every operation.

use std::sync::OnceLock;

use backend_wgpu::Options;
use conformance::discipline::discipline;
use conformance::metamorphic::properties;
use conformance::probe::probe;
use conformance::{
    Case, Catalogue, Conformance, Depth, Generator, Layout, Operand, Selection, Status, Suite,
};
use hal::{DType, WeightFormat};
use ops::{Accelerator, Attention, Cast, Embedding, KvWrite, Matmul, RmsNorm, StridedCopy};

/// Every adapter, opened once; `None`, with a word on stdout, when there is none.
fn accelerators() -> &'static [Accelerator] {
    static ALL: OnceLock<Vec<Accelerator>> = OnceLock::new();
    ALL.get_or_init(|| match backend_wgpu::devices() {
        Ok(adapters) => adapters
            .iter()
            .map(|adapter| {
                backend_wgpu::open(&adapter.spec)
                    .unwrap_or_else(|e| panic!("{}: {e:?}", adapter.spec))
            })
            .collect(),
        Err(e) => {
            conformance::skip("wgpu", e);
            Vec::new()
        }
    })
}

#[test]
fn memory_and_streams() {
    let selection = Selection {
        levels: "0".parse().unwrap(),
        ops: Vec::new(),
        depth: Depth::Standard,
        soak_seconds: None,
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
            // Graphs are not captured here, which a device may say.
            let fine = outcome.status.is_pass() || check.name == "memory/capture";
            assert!(fine, "{outcome}");
        }
    }
}

/// What the card says is what the probes find, and results do not depend on the run.
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
            let options = Options { subgroups: false, immediates: false, ..Options::default() };
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

/// Long heads in the 16 KiB of workgroup memory that every adapter has, and in less than a tile of them needs.
#[test]
fn attention_needs_little_workgroup_memory() {
    let Some(first) = accelerators().first() else {
        return;
    };
    for bytes in [16 << 10, 8 << 10] {
        let options = Options {
            max_workgroup_bytes: Some(bytes),
            ..Options::default()
        };
        let spec = &first.device.info().spec;
        let suite = Suite::new(backend_wgpu::open_with(spec, &options).unwrap());
        let report = suite.run_where::<Attention>(|case| case.op.head_dim > 128);
        println!("{bytes} B: {report}");
        report.require_pass().unwrap();
    }
}

/// Every kind of argument with bindings of 64 KiB, as for arguments a thousand times as large: the weights, tables, caches and tensors
/// here are longer than one, and are used in parts.
#[test]
fn long_arguments_are_used_in_parts() {
    let Some(first) = accelerators().first() else {
        return;
    };
    let options = Options {
        max_binding_bytes: Some(64 << 10),
        ..Options::default()
    };
    let spec = &first.device.info().spec;
    let suite = Suite::new(backend_wgpu::open_with(spec, &options).unwrap());
    fn check<O: Conformance>(suite: &Suite, op: O, operands: Vec<Operand>) {
        let outcome = suite.run_case(&Case::new(op, operands));
        assert!(outcome.status <= Status::PassWeak, "{outcome}");
    }
    let random = |shape: &[usize]| Operand::random(shape, Generator::Normal);
    let (f32, f16) = (DType::F32, DType::F16);
    for weight in [WeightFormat::Dense(f16), WeightFormat::Int4Group(32)] {
        for m in [2, 9] {
            let op = Matmul {
                bias: true,
                residual: true,
                ..Matmul::new(777, 512, f16, weight)
            };
            let operands = vec![
                Operand::out(&[m, 777]),
                random(&[m, 512]),
                random(&[777, 512]),
                random(&[777]),
                random(&[m, 777]),
            ];
            check(&suite, op, operands);
        }
    }
    for (table, tied) in [
        (WeightFormat::Dense(f32), false),
        (WeightFormat::Dense(f32), true),
        (WeightFormat::Int8Row, false),
    ] {
        let op = Embedding {
            vocab: 1000,
            dim: 160,
            table,
            out: f32,
            tied,
        };
        let ids = vec![0.0, 999.0, -1.0, 500.0, 1000.0, 101.0];
        let operands = vec![
            Operand::out(&[6, 160]),
            Operand::values(&[6], ids),
            random(&[1000, 160]),
        ];
        check(&suite, op, operands);
    }
    let op = KvWrite {
        kv_heads: 2,
        head_dim: 64,
        pages: 40,
        page_size: 16,
        dtype: f16,
        kv: f16,
    };
    let cache = [40, 2, 16, 64];
    let slots = vec![0.0, 639.0, -1.0, 320.0, 640.0];
    let operands = vec![
        random(&cache),
        random(&cache),
        random(&[5, 2, 64]),
        random(&[5, 2, 64]),
        Operand::values(&[5], slots),
    ];
    check(&suite, op, operands);
    let shape = [300, 301];
    let copy = vec![
        Operand::out(&shape).layout(Layout::Transposed),
        random(&shape),
    ];
    check(&suite, StridedCopy { dtype: f16 }, copy);
    let cast = vec![
        Operand::out(&shape),
        random(&shape).layout(Layout::Padded(5)),
    ];
    check(&suite, Cast { from: f32, to: f16 }, cast);
    // What cannot be split says which limit it meets.
    let op = RmsNorm {
        dim: 512,
        dtype: f32,
        eps: 1e-5,
    };
    let operands = vec![Operand::out(&[64, 512]), random(&[64, 512]), random(&[512])];
    let outcome = suite.run_case(&Case::new(op, operands));
    assert_eq!(outcome.status, Status::Fail);
    assert!(
        outcome.why.contains("max_storage_buffer_binding_size"),
        "{outcome}"
    );
}
