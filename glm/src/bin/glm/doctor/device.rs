//! One back end: its libraries, its devices, and kernels that really run.

use std::time::Instant;

use glm::backends;
use hal::{DType, Error, ErrorKind, Result, View, WeightFormat};
use ops::reference::Tensor;
use ops::{Accelerator, ArgList, Binary, Context, Elementwise, HostWeight, Matmul, Op, Plan, Role};

use super::Finding;
use super::finding::ERROR;
use crate::args::Global;
use crate::codes::Code;
use crate::{load, output};

/// What can be known of the back end `name`.
pub(super) fn check(global: &Global, name: &str) -> Vec<Finding> {
    let mut found = libraries(name);
    // Compiling is part of what is tried, and no news.
    let options = backends::Options {
        on_compile: None,
        ..load::device_options(global)
    };
    for (spec, opened) in backends::list_of(name, &options) {
        match opened {
            Ok(accelerator) => found.extend(device(name, &spec, accelerator)),
            Err(e) => found.push(unopened(name, spec, &e)),
        }
    }
    found
}

/// The device `spec`, which the user named.
pub(super) fn check_asked(global: &Global, spec: &str) -> Vec<Finding> {
    let area = spec.split(':').next().unwrap_or(spec);
    match backends::open(spec, &load::device_options(global)) {
        Ok(accelerator) => device(area, spec, accelerator),
        Err(e) => {
            let values = [("device", spec.to_owned())].into_iter().chain(why(&e));
            vec![Finding::new("GLM-D030", area, values)]
        }
    }
}

/// The first of each kind that loads, and every file that does not.
fn libraries(name: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut loaded = None;
    for library in backends::libraries(name) {
        let values = [
            ("part", library.part.to_owned()),
            ("path", library.path.display().to_string()),
        ];
        match library.problem {
            None if loaded == Some(library.part) => {}
            None => {
                loaded = Some(library.part);
                found.push(Finding::new("GLM-D021", name, values));
            }
            // A name alone that the system's loader does not know is not there.
            Some(_) if !library.path.is_file() => {}
            Some(problem) => {
                let more = [("why", problem), ("variable", library.variable.to_owned())];
                let values = values.into_iter().chain(more);
                found.push(Finding::new("GLM-D022", name, values));
            }
        }
    }
    found
}

fn unopened(name: &str, spec: String, error: &Error) -> Finding {
    match error.kind() {
        ErrorKind::NotFound => Finding::new("GLM-D020", name, why(error)),
        _ => {
            let values = [("device", spec)].into_iter().chain(why(error));
            Finding::new("GLM-D023", name, values)
        }
    }
}

/// The values `why` and `advice` of an error, and its class.
fn why(error: &Error) -> [(&'static str, String); 3] {
    let advice = error
        .next()
        .unwrap_or("`glm devices` lists what can be opened");
    [
        ("why", format!("{}: {}", error.doing(), error.detail())),
        ("advice", advice.to_owned()),
        (
            ERROR,
            Code::of_kind(error.kind()).map_or("", |c| c.id).into(),
        ),
    ]
}

fn device(area: &str, spec: &str, accelerator: Accelerator) -> Vec<Finding> {
    let info = accelerator.device.info().clone();
    let memory = match accelerator.device.memory() {
        Some(memory) => {
            let [free, total] =
                [memory.free_bytes, memory.total_bytes].map(|n| output::bytes(n as u64));
            format!("{free}/{total}")
        }
        None => "-".into(),
    };
    let values = [
        ("device", spec.to_owned()),
        ("name", info.name),
        ("detail", info.detail.clone()),
        ("memory", memory),
    ];
    let mut found = vec![Finding::new("GLM-D024", area, values)];
    if area == "cpu" {
        let code = match info.detail.starts_with("scalar") {
            true => "GLM-D003",
            false => "GLM-D002",
        };
        found.push(Finding::new(code, area, [("level", info.detail)]));
    }
    found.push(kernels(area, spec, &Context::new(accelerator)));
    found
}

/// Runs a sum and a product whose results are small integers, so that any order and any type of sums must give them
/// exactly.
fn kernels(area: &str, spec: &str, context: &Context) -> Finding {
    let start = Instant::now();
    let sum = Elementwise {
        kind: Binary::Add,
        dtype: DType::F32,
        alpha: 1.0,
    };
    let product = Matmul::new(48, 64, DType::F32, WeightFormat::Dense(DType::F32));
    let tried = [
        run(context, sum, &[&[5, 64], &[5, 64], &[5, 64]]),
        run(context, product, &[&[5, 48], &[5, 64], &[48, 64]]),
    ];
    let names = [Elementwise::NAME, Matmul::NAME];
    for (operation, result) in names.into_iter().zip(tried) {
        let what = [
            ("device", spec.to_owned()),
            ("operation", operation.to_owned()),
        ];
        match result {
            Err(e) => {
                let values = what.into_iter().chain(why(&e));
                return Finding::new("GLM-D026", area, values);
            }
            Ok(Some(difference)) => {
                let Difference {
                    wrong,
                    elements,
                    at,
                    given,
                    expected,
                } = difference;
                let more = [
                    ("wrong", wrong.to_string()),
                    ("elements", elements.to_string()),
                    ("at", at.to_string()),
                    ("given", given.to_string()),
                    ("expected", expected.to_string()),
                ];
                return Finding::new("GLM-D027", area, what.into_iter().chain(more));
            }
            Ok(None) => {}
        }
    }
    let milliseconds = start.elapsed().as_secs_f64() * 1e3;
    let values = [
        ("device", spec.to_owned()),
        ("operations", names.join(", ")),
        ("milliseconds", format!("{milliseconds:.0}")),
    ];
    Finding::new("GLM-D025", area, values)
}

/// How a result is wrong.
struct Difference {
    wrong: usize,
    elements: usize,
    at: usize,
    given: f32,
    expected: f64,
}

/// Runs `op` on f32 integers from −3 to 3, and compares its one output, the first argument, with the reference.
fn run<O: Op>(context: &Context, op: O, shapes: &[&[usize]]) -> Result<Option<Difference>> {
    let device = context.device();
    let plan: Plan<O> = context.plan(op)?;
    let mut stream = device.stream()?;
    let (mut buffers, mut inputs) = (Vec::new(), Vec::new());
    let signature = plan.op().signature();
    for (i, (arg, shape)) in signature.iter().zip(shapes).enumerate() {
        let elements: usize = shape.iter().product();
        // The output is full of NaN first: what is not written is seen.
        let value = |j: usize| match arg.role {
            Role::Out => f32::NAN,
            _ => ((j * 5 + j / 7 + i) % 7) as f32 - 3.0,
        };
        let values: Vec<f32> = (0..elements).map(value).collect();
        let bytes: &[u8] = bytemuck::cast_slice(&values);
        if arg.role != Role::Out {
            let exact = values.iter().copied().map(f64::from).collect();
            inputs.push(Tensor::new(shape, exact));
        }
        buffers.push(match arg.role {
            Role::Weight(format) => {
                let weight = HostWeight::new(format, shape[0], shape[1], bytes, &[][..])?;
                plan.pack(&weight)?
            }
            _ => {
                let buffer = device.alloc(bytes.len())?;
                stream.upload(&View::new(&buffer, DType::F32, shape)?, bytes)?;
                buffer
            }
        });
    }
    let mut args = ArgList::new();
    for ((arg, shape), buffer) in signature.iter().zip(shapes).zip(&buffers) {
        args.push(match arg.role {
            Role::Weight(_) => View::of_bytes(buffer),
            _ => View::new(buffer, DType::F32, shape)?,
        });
    }
    let shapes_of_args: Vec<&[usize]> = args.iter().map(View::shape).collect();
    let workspace = device.alloc(plan.workspace_bytes(&shapes_of_args))?;
    plan.run_list(&mut *stream, &args, &View::of_bytes(&workspace))?;
    let mut given = vec![0.0_f32; args[0].len()];
    stream.download(bytemuck::cast_slice_mut(&mut given), &args[0])?;
    let expected = plan.op().reference(shapes, &inputs).remove(0).data;
    let differs = |(given, expected): &(&f32, &f64)| f64::from(**given) != **expected;
    let pairs = || given.iter().zip(&expected);
    let Some(at) = pairs().position(|pair| differs(&pair)) else {
        return Ok(None);
    };
    Ok(Some(Difference {
        wrong: pairs().filter(differs).count(),
        elements: given.len(),
        at,
        given: given[at],
        expected: expected[at],
    }))
}
