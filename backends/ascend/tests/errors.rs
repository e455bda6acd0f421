//! What users see when something is missing, of another release, or fails: typed errors, no panic, nothing left behind. Emulated.

mod common;

use backend_ascend::Generation;
use backend_emulator::stand_in::{self, Functions, Vendor};
use hal::{DType, ErrorKind, Result, Stream, View, WeightFormat};
use ops::{
    Accelerator, Attention, AttentionArgs, Context, HostWeight, Mask, Matmul, MatmulArgs, RmsNorm,
    StridedCopy,
};

use common::CANN;

const FUNCTIONS: Functions<'_> = Functions {
    in_drops: &[
        "aclDestroyAclOpExecutor",
        "aclDestroyIntArray",
        "aclDestroyScalar",
        "aclDestroyTensor",
        "aclDestroyTensorList",
        "aclSetAclOpExecutorRepeatable",
        "aclSetTensorAddr",
        "aclmdlRICaptureEnd",
        "aclmdlRIDestroy",
        "aclrtDestroyEvent",
        "aclrtDestroyStream",
        "aclrtFree",
        "aclrtFreeHost",
        "aclrtRecordEvent",
        "aclrtResetDevice",
        "aclrtSetCurrentContext",
        "aclrtStreamWaitEvent",
        "aclrtSynchronizeDevice",
        "aclrtSynchronizeEvent",
        "aclrtSynchronizeStream",
    ],
    compiler: "",
    alloc: "",
    fact: None,
    load: "",
};

fn open() -> Result<Accelerator> {
    backend_ascend::open("ascend:0")
}

#[test]
fn a_failure_of_any_call_is_a_typed_error() {
    let name = "a_failure_of_any_call_is_a_typed_error";
    let codes = [
        (107_000, ErrorKind::Unexpected),
        (207_001, ErrorKind::OutOfMemory),
        (507_015, ErrorKind::DeviceLost),
        (507_899, ErrorKind::DeviceLost),
    ];
    CANN.emulated(name, &[], &[], |stand_in| {
        stand_in::fail_each_with(&stand_in, open, FUNCTIONS, &codes, &["aclCreateTensor"]);
    });
}

/// A weight that is folded, a product with it, and two steps of attention: operators with lists, of which some are kept.
fn operators() -> Result<Vec<u8>> {
    let context = Context::new(open()?);
    let device = context.device().clone();
    let mut stream = device.stream()?;
    let half = WeightFormat::Dense(DType::F16);
    let product = context.plan(Matmul::new(16, 16, DType::F16, half))?;
    let one = half::f16::ONE.to_le_bytes();
    let host = HostWeight::new(half, 16, 16, one.repeat(256), Vec::new())?;
    let weight = product.pack(&host)?;
    let attention = context.plan(Attention {
        heads: 2,
        kv_heads: 1,
        head_dim: 16,
        pages: 2,
        page_size: 16,
        scale: 0.25,
        mask: Mask::Causal,
        dtype: DType::F16,
        kv: DType::F16,
    })?;
    // Ones, as f16.
    let ones = |stream: &mut dyn Stream, elements: usize| {
        let buffer = device.alloc(2 * elements)?;
        stream.upload(&View::of_bytes(&buffer), &one.repeat(elements))?;
        Ok(buffer)
    };
    let integers = |stream: &mut dyn Stream, all: &[i32]| {
        let buffer = device.alloc(4 * all.len())?;
        let bytes: Vec<u8> = all.iter().flat_map(|x| x.to_le_bytes()).collect();
        stream.upload(&View::of_bytes(&buffer), &bytes)?;
        Ok(buffer)
    };
    let stream = &mut *stream;
    let [q, k, v, between, out] = [64, 512, 512, 64, 64].map(|n| ones(stream, n));
    let [q, k, v, between, out] = [q?, k?, v?, between?, out?];
    let [table, starts, lengths] = [&[0, 1][..], &[0, 1, 2], &[3, 16]].map(|x| integers(stream, x));
    let [table, starts, lengths] = [table?, starts?, lengths?];
    let cache = [2, 1, 16, 16];
    let args = AttentionArgs {
        out: View::new(&between, DType::F16, &[2, 2, 16])?,
        q: View::new(&q, DType::F16, &[2, 2, 16])?,
        k_pages: View::new(&k, DType::F16, &cache)?,
        v_pages: View::new(&v, DType::F16, &cache)?,
        block_table: View::new(&table, DType::I32, &[2, 1])?,
        q_start: View::new(&starts, DType::I32, &[3])?,
        kv_len: View::new(&lengths, DType::I32, &[2])?,
        prefix: None,
    };
    let workspace = device.alloc(1 << 16)?;
    for _ in 0..2 {
        attention.run(stream, args, &View::of_bytes(&workspace))?;
    }
    let args = MatmulArgs {
        out: View::new(&out, DType::F16, &[4, 16])?,
        x: View::new(&between, DType::F16, &[4, 16])?,
        weight: View::of_bytes(&weight),
        bias: None,
        residual: None,
    };
    product.run(stream, args, &View::of_bytes(&workspace))?;
    let mut back = vec![0; out.bytes()];
    stream.download(&mut back, &View::of_bytes(&out))?;
    Ok(back)
}

#[test]
fn a_failure_of_any_call_of_operators_is_a_typed_error() {
    let name = "a_failure_of_any_call_of_operators_is_a_typed_error";
    let codes = [
        (107_000, ErrorKind::Unexpected),
        (161_002, ErrorKind::Unexpected),
        (207_001, ErrorKind::OutOfMemory),
        (507_015, ErrorKind::DeviceLost),
    ];
    CANN.emulated(name, &[], &[], |stand_in| {
        stand_in.calls();
        let wanted = half::f16::from_f32(16.0).to_le_bytes().repeat(64);
        assert_eq!(operators().unwrap(), wanted);
        assert_eq!(stand_in.live(), [""; 0]);
        let calls = stand_in.calls();
        for own in [
            "aclCreateTensorList",
            "aclnnCalculateMatmulWeightSizeV2",
            "aclnnTransMatmulWeight",
            "aclnnMatmulWeightNz",
            "aclnnFusedInferAttentionScoreV2",
        ] {
            assert!(calls.iter().any(|call| call == own), "{own}");
        }
        println!("{} calls", calls.len());
        for (n, function) in calls.iter().map(String::as_str).enumerate() {
            for (code, kind) in codes {
                let kind = match function {
                    _ if kind == ErrorKind::DeviceLost => kind,
                    // It gives what it makes, and no code.
                    _ if function.starts_with("aclCreate") => ErrorKind::OutOfMemory,
                    _ if function.starts_with("aclnn") && code == 161_002 => ErrorKind::Unsupported,
                    _ => kind,
                };
                stand_in.fail("", i32::try_from(n).unwrap() + 1, code);
                let result = operators();
                stand_in.fail("", 0, 0);
                let at = format!("call {n}, {function}, code {code}");
                match result {
                    Err(e) => {
                        assert_eq!(e.kind(), kind, "{at}: {e}");
                        assert!(e.next().is_some(), "{at}: {e}");
                    }
                    Ok(bytes) => {
                        assert!(FUNCTIONS.in_drops.contains(&function), "{at}: nobody heard");
                        assert_eq!(bytes, wanted, "{at}");
                    }
                }
                assert_eq!(stand_in.live(), [""; 0], "{at}");
            }
        }
    });
}

#[test]
fn a_lost_device_says_so_until_it_is_opened_again() {
    let name = "a_lost_device_says_so_until_it_is_opened_again";
    CANN.emulated(name, &[], &[], |stand_in| {
        let says = ["AscendCL error 507015", "open the device again"];
        stand_in::lose_device_with(&stand_in, open, &says, 507_015);
    });
}

#[test]
fn what_an_operator_refuses_is_unsupported() {
    CANN.emulated(
        "what_an_operator_refuses_is_unsupported",
        &[],
        &[],
        |stand_in| {
            for code in [161_001, 161_002, 561_002] {
                stand_in.fail("aclnnInplaceCopyGetWorkspaceSize", 1, code);
                let e = copied().unwrap_err();
                assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
                let text = e.to_string();
                for part in [
                    "run aclnnInplaceCopy",
                    &code.to_string(),
                    "EZ9999: emulated",
                    "newer release",
                ] {
                    assert!(text.contains(part), "{text}");
                }
                assert_eq!(stand_in.live(), [""; 0]);
            }
            // It holds nobody up.
            copied().unwrap();
        },
    );
}

/// Opens the device, and copies a few bytes on it.
fn copied() -> Result<()> {
    let accelerator = open()?;
    let context = Context::new(accelerator.clone());
    let plan = context.plan(StridedCopy { dtype: DType::U8 })?;
    let device = accelerator.device;
    let buffers = [device.alloc(8)?, device.alloc(8)?];
    let [out, x] = buffers.each_ref().map(hal::View::of_bytes);
    let mut stream = device.stream()?;
    stream.upload(&x, &[7; 8])?;
    let nothing = x.slice(0, 0..0)?;
    plan.run(&mut *stream, ops::CopyArgs { out, x }, &nothing)?;
    let mut back = [0; 8];
    stream.download(&mut back, &out)?;
    assert_eq!(back, [7; 8]);
    Ok(())
}

/// A plan fails in this way without these functions.
fn lacks(name: &str, hidden: &[&str], plan: impl Fn(&Context) -> Result<()>, says: &str) {
    CANN.emulated(name, &[], hidden, |stand_in| {
        let context = Context::new(open().unwrap());
        let detail = context.device().info().detail.clone();
        assert!(detail.contains(says), "{detail}");
        let e = plan(&context).unwrap_err();
        println!("{e}");
        assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
        assert!(
            e.to_string().contains(says) && e.next().unwrap().contains("CANN"),
            "{e}"
        );
        drop(context);
        assert_eq!(stand_in.live(), [""; 0]);
        let missing = backend_ascend::libraries().missing;
        assert_eq!(missing, [says], "{missing:?}");
    });
}

#[test]
fn an_operator_that_is_missing_is_named_when_an_operation_is_planned() {
    let name = "an_operator_that_is_missing_is_named_when_an_operation_is_planned";
    let plan = |context: &Context| {
        let dense = WeightFormat::Dense(DType::F32);
        context.plan(Matmul::new(8, 8, DType::F32, dense)).map(drop)
    };
    lacks(name, &["aclnnMatmul"], plan, "aclnnMatmul");
}

#[test]
fn an_operator_without_its_second_function_is_missing() {
    let name = "an_operator_without_its_second_function_is_missing";
    let plan = |context: &Context| context.plan(StridedCopy { dtype: DType::F32 }).map(drop);
    lacks(
        name,
        &["aclnnInplaceCopyGetWorkspaceSize"],
        plan,
        "aclnnInplaceCopy",
    );
}

#[test]
fn norms_compose_where_their_operator_is_missing() {
    let name = "norms_compose_where_their_operator_is_missing";
    CANN.emulated(
        name,
        &[],
        &["aclnnRmsNorm", "aclnnLayerNorm", "aclnnSwiGlu"],
        |stand_in| {
            let suite = conformance::Suite::new(open().unwrap());
            for report in [
                suite.run::<RmsNorm>(),
                suite.run::<ops::LayerNorm>(),
                suite.run::<ops::Glu>(),
            ] {
                println!("{report}");
                report.require_pass().unwrap();
            }
            drop(suite);
            assert_eq!(stand_in.live(), [""; 0]);
        },
    );
}

#[test]
fn an_older_name_of_an_operator_will_do() {
    let name = "an_older_name_of_an_operator_will_do";
    CANN.emulated(name, &[], &["aclnnGeluV2"], |stand_in| {
        let context = Context::new(open().unwrap());
        let plan = |act| {
            let dtype = DType::F16;
            context.plan(ops::Activation { act, dtype }).map(drop)
        };
        plan(ops::Act::GeluTanh).unwrap();
        let e = plan(ops::Act::GeluErf).unwrap_err();
        assert!(e.to_string().contains("aclnnGeluV2"), "{e}");
        drop(context);
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn an_older_release_works_too() {
    let name = "an_older_release_works_too";
    let hidden = [
        "aclDestroyAclOpExecutor",
        "aclGetRecentErrMsg",
        "aclnnCalculateMatmulWeightSizeV2",
        "aclnnFusedInferAttentionScoreV2GetWorkspaceSize",
        "aclnnMatmulWeightNz",
        "aclrtCreateEventExWithFlag",
        "aclrtDeviceCanAccessPeer",
        "aclrtGetVersion",
    ];
    CANN.emulated(name, &[], &hidden, |stand_in| {
        stand_in::works(open);
        let detail = open().unwrap().device.info().detail.clone();
        assert!(detail.contains("of unknown version"), "{detail}");
        // Attention composes, weights stay as they are, and the numbers are the same.
        stand_in.calls();
        let wanted = half::f16::from_f32(16.0).to_le_bytes().repeat(64);
        assert_eq!(operators().unwrap(), wanted);
        let calls = stand_in.calls();
        assert!(
            !calls
                .iter()
                .any(|call| call.contains("FusedInfer") || call.contains("Trans"))
        );
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn a_release_without_captures_says_so() {
    let name = "a_release_without_captures_says_so";
    CANN.emulated(name, &[], &["aclmdlRIExecuteAsync"], |_| {
        let device = open().unwrap().device;
        let detail = &device.info().detail;
        assert!(detail.contains("no captures"), "{detail}");
        let mut stream = device.stream().unwrap();
        let e = stream.begin_capture().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
        stream.synchronize().unwrap();
    });
}

/// Opening `ascend:0` fails in this way; the error.
fn refused(name: &str, settings: &[(&str, &str)], hidden: &[&str], kind: ErrorKind, says: &str) {
    CANN.emulated(name, settings, hidden, |stand_in| {
        stand_in.refused(open(), kind, says);
    });
}

#[test]
fn a_runtime_without_a_function_is_named() {
    let name = "a_runtime_without_a_function_is_named";
    let says = "has no aclrtMemcpyAsync";
    refused(name, &[], &["aclrtMemcpyAsync"], ErrorKind::NotFound, says);
}

#[test]
fn a_base_without_a_function_is_named() {
    let name = "a_base_without_a_function_is_named";
    let says = "libnnopbase.so has no aclCreateTensor";
    refused(name, &[], &["aclCreateTensor"], ErrorKind::NotFound, says);
}

#[test]
fn a_machine_without_devices_says_so() {
    let settings = [("STAND_IN_DEVICES", "0")];
    let name = "a_machine_without_devices_says_so";
    refused(name, &settings, &[], ErrorKind::NotFound, "has no device");
}

#[test]
fn a_chip_that_is_not_known_is_refused() {
    let settings = [("STAND_IN_SOC", "Ascend310B4")];
    let name = "a_chip_that_is_not_known_is_refused";
    refused(name, &settings, &[], ErrorKind::Unsupported, "Ascend310B4");
}

#[test]
fn a_list_of_devices_that_would_be_cut_short_is_refused() {
    let settings = [("ASCEND_RT_VISIBLE_DEVICES", "0, 1")];
    let name = "a_list_of_devices_that_would_be_cut_short_is_refused";
    let says = "write ASCEND_RT_VISIBLE_DEVICES=0,1";
    refused(name, &settings, &[], ErrorKind::InvalidArgument, says);
}

#[test]
fn operators_in_parts_are_found_too() {
    // Newer releases have parted the library of operators.
    const PARTED: Vendor = Vendor {
        files: &["libascendcl.so", "libnnopbase.so", "libaclnn_math.so"],
        ..CANN
    };
    // A function that is none gives it a folder of its own.
    let hidden = ["operators_in_parts"];
    PARTED.emulated(
        "operators_in_parts_are_found_too",
        &[],
        &hidden,
        |stand_in| {
            let found = backend_ascend::libraries().places;
            let mut found = found.iter().filter(|place| place.problem.is_none());
            assert!(!found.any(|place| place.path.ends_with("libopapi.so")));
            stand_in::works(open);
            assert_eq!(stand_in.live(), [""; 0]);
        },
    );
}

#[test]
fn a_runtime_without_operators_says_where_it_looked() {
    const ALONE: Vendor = Vendor {
        files: &["libascendcl.so", "libnnopbase.so"],
        ..CANN
    };
    let name = "a_runtime_without_operators_says_where_it_looked";
    // A function that is none gives it a folder of its own.
    ALONE.emulated(name, &[], &["no_operators"], |_| {
        let e = open().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
        let text = e.to_string();
        for part in [
            "there is no libopapi.so",
            "ASCEND_HOME_PATH",
            "/usr/local/Ascend",
            "LD_LIBRARY_PATH",
        ] {
            assert!(text.contains(part), "{text}");
        }
    });
}

#[test]
fn the_first_generation_names_f16_in_place_of_bf16_and_f32() {
    let name = "the_first_generation_names_f16_in_place_of_bf16_and_f32";
    let settings = [("STAND_IN_SOC", "Ascend910A")];
    CANN.emulated(name, &settings, &[], |stand_in| {
        assert_eq!(
            backend_ascend::devices().unwrap()[0].generation,
            Some(Generation::First)
        );
        let context = Context::new(open().unwrap());
        assert_eq!(context.device().info().native_floats, [DType::F16]);
        let matmul = |x| Matmul::new(8, 8, x, WeightFormat::Dense(x));
        for x in [DType::BF16, DType::F32] {
            let e = context.plan(matmul(x)).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
            assert!(e.next().unwrap().contains("--dtype f16"), "{e}");
        }
        let norm = RmsNorm {
            dim: 8,
            dtype: DType::BF16,
            eps: 1e-5,
        };
        let e = context.plan(norm).unwrap_err();
        assert!(e.to_string().contains("Ascend910A has no bf16"), "{e}");
        context.plan(matmul(DType::F16)).unwrap();
        drop(context);
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn devices_are_listed_with_their_peers() {
    let settings = [("STAND_IN_DEVICES", "3")];
    CANN.emulated(
        "devices_are_listed_with_their_peers",
        &settings,
        &[],
        |stand_in| {
            let all = backend_ascend::devices().unwrap();
            let specs: Vec<&str> = all.iter().map(|found| found.spec.as_str()).collect();
            assert_eq!(specs, ["ascend:0", "ascend:1", "ascend:2"]);
            let one = backend_ascend::open("ascend:1").unwrap();
            let info = one.device.info();
            assert_eq!(
                (info.spec.as_str(), info.name.as_str()),
                ("ascend:1", "Ascend910B2")
            );
            assert!(
                info.detail.contains("reaches ascend:0 ascend:2"),
                "{}",
                info.detail
            );
            let e = backend_ascend::open("ascend:3").unwrap_err();
            assert_eq!(e.kind(), ErrorKind::NotFound);
            assert!(
                e.to_string().contains("ascend:0, ascend:1, ascend:2"),
                "{e}"
            );
            drop(one);
            assert_eq!(stand_in.live(), [""; 0]);
        },
    );
}

#[test]
fn without_cann_the_search_is_told() {
    let e = match backend_ascend::devices() {
        Ok(devices) => {
            return conformance::skip("without-cann", format!("there are devices: {devices:?}"));
        }
        Err(e) => e,
    };
    println!("{e}");
    assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
    for part in [
        "libascendcl.so",
        "ASCEND_TOOLKIT_HOME",
        "/usr/local/Ascend/ascend-toolkit/latest/lib64",
    ] {
        assert!(e.to_string().contains(part), "{e}");
    }
}
