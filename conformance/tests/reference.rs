//! The suite on its own reference device: the pattern that a backend's `tests/conformance.rs` follows.

use std::sync::Arc;

use conformance::{Status, Suite};
use ops::{Accelerator, Cast, Launch, Ops, Planner};

fn accelerator() -> Accelerator {
    conformance::reference_device::open()
}

conformance::tests!(accelerator);

#[test]
fn every_operation_of_the_table_is_tried() {
    macro_rules! names {
        ($($name:ident $op:ident),*) => { vec![$(stringify!($name)),*] };
    }
    let tried: Vec<&str> = conformance::for_each_op!(names);
    let table: Vec<&str> = Ops::none().names().map(|(name, _)| name).collect();
    assert_eq!(tried, table);
}

#[test]
fn declining_a_claimed_operation_is_not_the_same_as_not_having_it() {
    let run = |planner: Option<Arc<dyn Planner<Cast>>>| {
        let ops = Ops {
            cast: planner,
            ..Ops::none()
        };
        Suite::new(Accelerator {
            ops,
            ..accelerator()
        })
        .run::<Cast>()
    };
    let declines = |_: &Cast| -> hal::Result<Option<Arc<dyn Launch>>> { Ok(None) };
    let claimed = run(Some(Arc::new(declines)));
    let all = claimed.outcomes.len();
    assert_eq!(claimed.count(Status::ClaimedButUnsupported), all);
    let absent = run(None);
    assert_eq!(absent.count(Status::Unsupported), all);
    assert!(claimed.require_pass().is_err() && absent.require_pass().is_err());
    let text = claimed.require_pass().unwrap_err();
    assert!(
        text.contains(&format!("{all} CLAIMED-BUT-UNSUPPORTED")),
        "{text}"
    );
    assert!(text.contains("plan cast on reference"), "{text}");
}

#[test]
fn no_case_is_no_pass() {
    let suite = Suite::new(accelerator());
    assert!(suite.run_where::<Cast>(|_| false).require_pass().is_err());
}

#[test]
fn cases_are_the_same_every_time() {
    macro_rules! ids {
        ($($name:ident $op:ident),*) => {
            $({
                let ids = || <ops::$op as conformance::Conformance>::cases().iter().map(|c| c.id()).collect::<Vec<_>>();
                let distinct: std::collections::BTreeSet<String> = ids().into_iter().collect();
                assert_eq!(ids(), ids());
                assert_eq!(distinct.len(), ids().len());
                assert!(ids().len() > 50, "{} {}", stringify!($name), ids().len());
            })*
        };
    }
    conformance::for_each_op!(ids);
}
