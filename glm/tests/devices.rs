//! The demo model on every accelerator of this machine: the answers of the CPU, and its logits but for roundings.

use std::ops::ControlFlow;

use glm::backends;
use glm::demo;
use glm::engine::GenerationParams;
use glm::model::{Chunk, Options, Rows};
use glm::prompt::{ChatOptions, Message};
use hal::{DType, ErrorKind, WeightFormat};
use ops::Context;

fn open(device: &str) -> hal::Result<Context> {
    backends::open(device, &backends::Options::default()).map(Context::new)
}

/// Shapes that the portable kernels meet on GPUs: waves of 32 and of 64.
#[cfg(feature = "emulator")]
const EMULATED: &[&str] = &[
    "emulator:simt,wave32,wg256,local48k",
    "emulator:simt,wave64,wg256,local64k",
];
#[cfg(not(feature = "emulator"))]
const EMULATED: &[&str] = &[];

/// Runs `test` on every accelerator; each back end that has none says so on stdout.
fn each_accelerator(test: impl Fn(&str, &Context)) {
    let found = backends::list(&backends::Options::default());
    let emulated = EMULATED.iter().map(|spec| (spec.to_string(), open(spec)));
    let all = found
        .into_iter()
        .filter(|(spec, _)| spec != "cpu" && spec != "emulator")
        .map(|(spec, found)| (spec, found.map(Context::new)))
        .chain(emulated);
    for (spec, context) in all {
        let name = match spec.split_once(':') {
            Some(("emulator", _)) => "simt",
            Some((name, _)) => name,
            None => &spec,
        };
        match context {
            Ok(context) => test(&spec, &context),
            Err(e) => conformance::skip(name, e),
        }
    }
}

/// The answer to a question, and the logits after it was asked.
fn answer(context: &Context, weights: Option<WeightFormat>, question: &str) -> (String, Vec<f32>) {
    let options = Options {
        dtype: Some(DType::F32),
        weights,
        context: Some(128),
        ..Options::default()
    };
    let source = demo::folder_files();
    let engine = source.load(context, &options, |_, _| {}).unwrap();
    let form = source.chat_form(engine.tokenizer()).unwrap();
    let chat = ChatOptions {
        add_generation_prompt: true,
        ..ChatOptions::default()
    };
    let messages = [Message::new("user", question)];
    let prompt = form.encode(engine.tokenizer(), &messages, &chat);
    let ids = prompt.unwrap().ids;
    let params = GenerationParams::from(&source.generation_config().unwrap());
    let mut session = engine.session().unwrap();
    let result = session.generate(&ids, &params, |_| ControlFlow::Continue(()));
    let text = result.unwrap().text;
    drop(session);
    let mut model = engine.model();
    let mut sequence = model.sequence();
    let chunk = Chunk {
        sequence: &mut sequence,
        ids: &ids,
        positions: None,
    };
    model.forward(&mut [chunk], Rows::Last).unwrap();
    let logits = model.read_logits().unwrap();
    (text, logits.to_vec())
}

/// Kernels that take float caches alone say so before anything is loaded.
#[test]
fn a_cache_of_int8_is_refused_by_those_that_have_none() {
    each_accelerator(|spec, context| {
        let options = Options {
            kv: Some(DType::I8),
            ..Options::default()
        };
        let loaded = demo::folder_files().load(context, &options, |_, _| {});
        if context.device().info().numerics.int8_cache {
            loaded.unwrap();
            return;
        }
        let error = loaded.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{spec}: {error}");
        assert!(
            error.to_string().contains("a KV cache of i8"),
            "{spec}: {error}"
        );
    });
}

const QUESTION: &str = "What is 16 mod 12?";
const FORMATS: [Option<WeightFormat>; 2] = [None, Some(WeightFormat::Int4Group(32))];

/// What the CPU answers in each format.
fn wanted() -> [(String, Vec<f32>); 2] {
    let cpu = open("cpu").unwrap();
    let wanted = FORMATS.map(|weights| answer(&cpu, weights, QUESTION));
    assert_ne!(
        wanted[0].1, wanted[1].1,
        "the weights' format made no difference"
    );
    wanted
}

/// The same answers, by the device's own kernels alone, but for operations that are `composed`.
fn answers_so(spec: &str, context: &Context, composed: &[&str], wanted: &[(String, Vec<f32>)]) {
    for (weights, (wanted, reference)) in FORMATS.iter().zip(wanted) {
        let (text, logits) = answer(context, *weights, QUESTION);
        assert_eq!(text, *wanted, "{spec} {weights:?}");
        let gaps = logits.iter().zip(reference).map(|(a, b)| (a - b).abs());
        let gap = gaps.fold(0.0, f32::max);
        println!("{spec} {weights:?}: {text:?}, logits within {gap:e}");
        assert!(gap <= 2e-3, "{spec} {weights:?}: {gap}");
    }
    for ((op, how), _) in context.counts() {
        let expected = ["native", "composed"][usize::from(composed.contains(&op))];
        assert_eq!(how, expected, "{spec}: {op}");
    }
}

#[test]
fn answers_as_on_the_cpu() {
    let wanted = wanted();
    each_accelerator(|spec, context| {
        let composed: &[&str] = match spec.starts_with("wgpu") {
            true => &["rope_kv_write"],
            false => &[],
        };
        answers_so(spec, context, composed, &wanted);
    });
}

/// Through a vendor's calls, over the stand-in for its runtime: emulated.
#[cfg(feature = "hip")]
#[test]
fn answers_through_hips_calls_as_on_the_cpu() {
    let amd = backend_emulator::stand_in::Vendor {
        exports: include_str!("../../backends/hip/tests/stand_in/hip.h"),
        files: &["libamdhip64.so.6"],
        variable: "GLM_HIP_LIBRARIES",
    };
    let name = "devices::answers_through_hips_calls_as_on_the_cpu";
    amd.emulated(name, &[], &[], |stand_in| {
        let context = open("hip:0").unwrap();
        assert!(context.device().info().name.contains("emulated"));
        answers_so("hip:0", &context, &[], &wanted());
        // Most steps were launches of a recording, all of them the same.
        let calls = stand_in.calls();
        let count = |name| calls.iter().filter(|call| *call == name).count();
        let (made, launched) = (
            count("hipGraphInstantiateWithFlags"),
            count("hipGraphLaunch"),
        );
        assert!(
            launched > 10 && (1..8).contains(&made),
            "{made} made, {launched} launched"
        );
        drop(context);
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

/// Through CUDA's calls under other names, over the stand-in for these: emulated.
#[cfg(feature = "musa")]
#[test]
fn answers_through_musas_calls_as_on_the_cpu() {
    let moore_threads = backend_emulator::stand_in::Vendor {
        exports: concat!(
            include_str!("../../backends/musa/tests/stand_in/musa.h"),
            include_str!("../../backends/cuda/tests/stand_in/cuda.h")
        ),
        files: &["libmusa.so.1", "libmtrtc.so.5"],
        variable: "GLM_MUSA_LIBRARIES",
    };
    let name = "devices::answers_through_musas_calls_as_on_the_cpu";
    let s4000 = [("STAND_IN_CHIP", "22"), ("STAND_IN_WAVE", "128")];
    moore_threads.emulated(name, &s4000, &[], |stand_in| {
        let context = open("musa:0").unwrap();
        assert!(context.device().info().name.contains("emulated"));
        answers_so("musa:0", &context, &[], &wanted());
        let calls = stand_in.calls();
        assert!(calls.iter().any(|call| call == "muGraphLaunch"));
        drop(context);
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

/// Through an operator library's calls, over the stand-in for it: emulated.
#[cfg(feature = "ascend")]
#[test]
fn answers_through_ascends_calls_as_on_the_cpu() {
    let name = "devices::answers_through_ascends_calls_as_on_the_cpu";
    crate::cann::CANN.emulated(name, &[], &[], |stand_in| {
        let context = open("ascend:0").unwrap();
        let composed = [
            "add_layer_norm",
            "add_rms_norm",
            "attention",
            "rope_kv_write",
        ];
        answers_so("ascend:0", &context, &composed, &wanted());
        drop(context);
        // Most of what was queued was prepared before.
        let calls = stand_in.calls();
        let operators = calls.iter().filter(|call| call.starts_with("aclnn"));
        let (prepared, queued): (Vec<&String>, Vec<_>) =
            operators.partition(|call| call.ends_with("GetWorkspaceSize"));
        println!("{} operators, {} prepared", queued.len(), prepared.len());
        let in_place = |call: &&&String| call.starts_with("aclnnInplace");
        let (prepared, queued) = [prepared, queued]
            .map(|calls| calls.iter().filter(|call| !in_place(call)).count())
            .into();
        assert!(prepared * 4 < queued, "{prepared} of {queued}");
        assert_eq!(stand_in.live(), [""; 0]);
    });
}
