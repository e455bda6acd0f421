//! The conformance suite on the CPU: every operation natively, composed, and as another device's host fallback.

mod common;

use backend_cpu::{Activations, Level, Options};
use conformance::discipline::discipline;
use conformance::metamorphic::properties;
use conformance::probe::probe;
use conformance::{Case, Conformance, Picks, Status, Suite};
use ops::{Accelerator, Context, How, Ops};
use proptest::prelude::*;

use common::{cpu, primitive};

conformance::tests!(cpu);

#[test]
fn every_instruction_set_is_what_its_card_says() {
    let levels = Level::ALL.into_iter().filter(|level| level.is_available());
    let both = [Activations::Float, Activations::Int8];
    for (level, activations) in levels.flat_map(|level| both.map(|class| (level, class))) {
        let accelerator = opened(Some(level), activations);
        let findings = probe(&accelerator).unwrap();
        println!("{level}, {activations:?}\n{findings}");
        let wrong = findings.contradictions(&accelerator.device.info().numerics);
        assert!(wrong.is_empty(), "{level}, {activations:?}: {wrong:?}");
    }
}

fn opened(level: Option<Level>, activations: Activations) -> Accelerator {
    backend_cpu::open(&Options {
        level,
        activations,
        ..Options::default()
    })
    .unwrap()
}

/// The CPU with activations of eight bits.
fn of_integers() -> Accelerator {
    opened(None, Activations::Int8)
}

#[test]
fn products_of_integers_conform() {
    let report = Suite::new(of_integers()).run::<ops::Matmul>();
    println!("{report}");
    report.require_pass().unwrap();
}

#[test]
fn every_property_holds() {
    for accelerator in [cpu(), primitive(), of_integers()] {
        for property in properties(&accelerator) {
            assert!(property.is_fine(), "{property}");
        }
    }
}

#[test]
fn results_depend_on_nothing_else() {
    for found in discipline(&cpu()).unwrap() {
        println!("{found}");
        assert_eq!(found.deterministic, Some(true), "{found}");
    }
}

/// Every instruction set that this CPU has, not only the best: a tenth of the cases each.
macro_rules! every_level {
    ($($name:ident $op:ident),*) => {
        #[test]
        fn every_instruction_set_conforms() {
            for level in Level::ALL.into_iter().filter(|level| level.is_available()) {
                let suite = Suite::new(opened(Some(level), Activations::Float));
                $(
                    let report = suite.run_where::<ops::$op>(|case| case.id().len() % 10 == 0);
                    report.require_pass().unwrap_or_else(|e| panic!("{level}: {e}"));
                )*
            }
        }
    };
}
conformance::for_each_op!(every_level);

/// Any combination of parameters and any size, not only the listed ones.
mod any_shape {
    use super::*;

    macro_rules! property {
        ($($name:ident $op:ident),*) => {
            $(#[test]
            fn $name() {
                let suite = Suite::new(cpu());
                let picks = prop::collection::vec(any::<u16>(), 16);
                proptest!(ProptestConfig::with_cases(24), |(picks in picks)| {
                    let outcome = suite.run_case(&ops::$op::case(&mut Picks::free(picks)));
                    prop_assert!(outcome.status <= Status::PassWeak, "{outcome}");
                });
            })*
        };
    }
    conformance::for_each_op!(property);
}

fn runs_as<O: Conformance>(suite: &Suite, how: How, keep: impl Fn(&Case<O>) -> bool) {
    let report = suite.run_where::<O>(keep);
    println!("{how} {report}");
    report.require_pass().unwrap();
    assert!(report.outcomes.iter().all(|o| o.how == Some(how)));
}

/// But with a cache of int8.
#[test]
fn attention_composes() {
    let keep = |case: &Case<ops::Attention>| case.op.kv.is_float();
    runs_as(&Suite::new(primitive()), How::Composed, keep);
}

#[test]
fn glu_composes_unless_it_clamps() {
    let suite = Suite::new(primitive());
    runs_as::<ops::Glu>(&suite, How::Composed, |case| case.op.limit.is_none());
    let clamped = suite.run_where::<ops::Glu>(|case| case.op.limit.is_some());
    assert!(clamped.count(Status::Unsupported) > 0);
    assert_eq!(clamped.count(Status::Unsupported), clamped.outcomes.len());
    assert!(clamped.require_pass().is_err());
}

#[test]
fn sums_with_norms_compose() {
    let suite = Suite::new(primitive());
    runs_as::<ops::AddRmsNorm>(&suite, How::Composed, |_| true);
    runs_as::<ops::AddLayerNorm>(&suite, How::Composed, |_| true);
}

/// A device with memory and streams, and no operation.
fn empty() -> Accelerator {
    Accelerator {
        ops: Ops::none(),
        ..cpu()
    }
}

/// Every fourth case: the kernels were tried above, here it is the copies.
macro_rules! host_fallback {
    ($($name:ident $op:ident),*) => {
        #[test]
        fn the_host_steps_in() {
            let suite = Suite::new(empty()).with_host_fallback(cpu());
            $(runs_as::<ops::$op>(&suite, How::Host, |case| case.id().len() % 4 == 0);)*
        }

        #[test]
        fn without_kernel_parts_or_host_an_operation_is_unsupported() {
            let context = Context::new(empty());
            $({
                let case = ops::$op::case(&mut Picks::free(Vec::new()));
                let error = context.plan(case.op.clone()).unwrap_err();
                assert_eq!(error.kind(), hal::ErrorKind::Unsupported);
                let (text, name) = (error.to_string(), stringify!($name));
                let spec = format!("{:?}", case.op);
                assert!(text.contains(&format!("plan {name} on cpu")) && text.contains(&spec), "{text}");
                let report = Suite::new(empty()).run_where::<ops::$op>(|_| false);
                assert!(report.require_pass().is_err(), "no case is no pass");
            })*
        }
    };
}
conformance::for_each_op!(host_fallback);
