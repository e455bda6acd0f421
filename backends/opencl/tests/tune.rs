//! The tuner on every OpenCL device of this machine: wrong candidates never win, and choices are kept.

mod common;

use backend_opencl::{Candidate, Options, Trial, Tuning};
use hal::{DType, WeightFormat};
use ops::Matmul;

use common::each_device;

#[test]
fn a_wrong_candidate_is_refused_and_a_choice_is_kept() {
    let folder = std::env::temp_dir().join(format!("glm-tune-{}", std::process::id()));
    let op = Matmul::new(70, 256, DType::F16, WeightFormat::Int4Group(32));
    let with = |trial, name, value: &str| Candidate {
        trial,
        defines: vec![(name, value.into())],
    };
    let tuning = Tuning {
        candidates: vec![
            Candidate::of(Trial::Row(32)),
            Candidate::of(Trial::Tile(4, 4)),
            // Without scales it is faster, and wrong.
            with(Trial::Row(16), "SCALED", "0"),
            with(Trial::Tile(4, 8), "SCALED", "0"),
            with(Trial::Row(8), "X", "no_such_type"),
        ],
        ..Tuning::default()
    };
    each_device(|accelerator| {
        let spec = &accelerator.device.info().spec;
        let options = || Options {
            folder: Some(folder.clone()),
            ..Options::default()
        };
        let tuned = backend_opencl::tune(spec, options(), &[op.clone(), op.clone()], &tuning);
        let tuned = tuned.unwrap();
        println!("{tuned:?}");
        let [tuned] = &tuned[..] else {
            panic!("one class")
        };
        let refused = &tuned.refused;
        assert_eq!(refused.len(), 3, "{refused:?}");
        assert!(
            refused[0].contains("SCALED=0") && refused[0].contains("is right"),
            "{refused:?}"
        );
        assert!(
            refused[1].contains("tiles of 4x4") && refused[1].contains("is right"),
            "{refused:?}"
        );
        assert!(refused[2].contains("no_such_type"), "{refused:?}");
        assert_ne!(tuned.chosen.row_group, 16);
        assert_ne!((tuned.chosen.side, tuned.chosen.each), (4, 8));
        assert_eq!(tuned.times.len(), 3);
        assert!(tuned.times.iter().all(|t| t.rule > 0.0 && t.chosen > 0.0));
        let kept = tuned.kept.as_ref().expect("this driver has a fingerprint");
        assert!(kept.starts_with(folder.join("tuning")), "{kept:?}");
        // Time is up before the first candidate: the rule stands.
        let none = Tuning {
            time: std::time::Duration::ZERO,
            ..tuning.clone()
        };
        let tuned =
            backend_opencl::tune(spec, options(), std::slice::from_ref(&op), &none).unwrap();
        assert!(tuned[0].left_out >= 4);
        assert_eq!(tuned[0].chosen.row_group, tuned[0].rule.row_group);
        let small = Tuning {
            bytes: 1000,
            ..Tuning::default()
        };
        let tuned =
            backend_opencl::tune(spec, options(), std::slice::from_ref(&op), &small).unwrap();
        assert!(tuned[0].refused[0].contains("1000 B"), "{tuned:?}");
        assert_eq!((tuned[0].times.len(), &tuned[0].kept), (0, &None));
    });
    let _ = std::fs::remove_dir_all(&folder);
}
