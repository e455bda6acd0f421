//! Level 7: how fast each operation is at GLM-4-9B's sizes, against what the device itself reaches.
//!
//! Least time = max(bytes / bandwidth, operations / peak); the share of the roofline is that over the median time.
//! Bandwidth is that of the device's own copy of 64 MiB, the peak that of its own largest matrix product. What fits in
//! a cache may exceed the roof.

use std::fmt;

use hal::{DType, Error, ErrorKind, Result, WeightFormat};
use ops::{
    Act, Activation, AddLayerNorm, AddRmsNorm, Argmax, Attention, BatchedMatmul, Binary, Cast,
    Elementwise, Embedding, Glu, Half, How, KvWrite, LayerNorm, Matmul, RmsNorm, Rope, RopeKvWrite,
    Sample, SampleControl, Softmax, StridedCopy, TopK,
};

use crate::bench::Launches;
use crate::cases::Conformance;
use crate::outcome::Speed;
use crate::shapes::{TYPICAL, attention_case, matmul_case, rope_case, rope_kv_write_case};
use crate::{Case, Check, Generator, Level, Operand, Outcome, Status, Suite};

/// Type of activations.
const DTYPE: DType = DType::BF16;

/// Tokens of a prompt's piece.
const TOKENS: usize = 128;

/// The checks of this level.
pub(crate) fn checks() -> Vec<Check> {
    timings().into_iter().map(Timing::check).collect()
}

/// The operations that this level measures.
pub fn timings() -> Vec<Timing> {
    let m = TYPICAL;
    let (hidden, ffn) = (m.hidden, m.ffn[0]);
    let normal = |shape: &[usize]| Operand::random(shape, Generator::Normal);
    let rows = [TOKENS, hidden];
    let n = (TOKENS * hidden) as f64;
    let mut list = Vec::new();
    for (name, weight) in [
        ("bf16", WeightFormat::Dense(DType::BF16)),
        ("int8", WeightFormat::Int8Row),
        ("int4", WeightFormat::Int4Row),
        ("int4g32", WeightFormat::Int4Group(32)),
    ] {
        for tokens in [1, TOKENS] {
            let make = move || matmul_case(product(hidden, hidden, DTYPE, weight), tokens);
            let flops = 2.0 * (tokens * hidden * hidden) as f64;
            list.push(timing(&format!("{tokens}_{name}"), flops, None, make));
        }
    }
    for tokens in [1, TOKENS] {
        let flops = 4.0 * (tokens * m.heads * m.head_dim * (1024 + tokens / 2)) as f64;
        let make = move || attention_case(&TYPICAL, DTYPE, tokens, 1024);
        list.push(timing::<Attention>(
            &format!("{tokens}_over_1024"),
            flops,
            None,
            make,
        ));
    }
    list.push(timing::<BatchedMatmul>(
        "heads",
        2.0 * 32.0 * (128 * 128 * 128) as f64,
        None,
        move || {
            let op = BatchedMatmul {
                a: DTYPE,
                b: DTYPE,
                out: DType::F32,
                alpha: 1.0,
            };
            let shape = [1, 32, 128, 128];
            Case::new(
                op,
                vec![Operand::out(&shape), normal(&shape), normal(&shape)],
            )
        },
    ));
    list.push(timing::<Softmax>(
        "scores",
        5.0 * (32 * 128 * 1024) as f64,
        None,
        move || {
            let op = Softmax {
                dtype: DType::F32,
                scale: 1.0,
                mask: None,
            };
            let shape = [32, 128, 1024];
            Case::new(op, vec![Operand::out(&shape), normal(&shape)])
        },
    ));
    list.push(timing::<RmsNorm>("rows", 4.0 * n, None, move || {
        let op = RmsNorm {
            dim: hidden,
            dtype: DTYPE,
            eps: 1e-5,
        };
        Case::new(
            op,
            vec![Operand::out(&rows), normal(&rows), normal(&[hidden])],
        )
    }));
    list.push(timing::<LayerNorm>("rows", 7.0 * n, None, move || {
        let op = LayerNorm {
            dim: hidden,
            dtype: DTYPE,
            eps: 1e-5,
        };
        let vector = || normal(&[hidden]);
        Case::new(
            op,
            vec![Operand::out(&rows), normal(&rows), vector(), vector()],
        )
    }));
    list.push(timing::<AddRmsNorm>("rows", 6.0 * n, None, move || {
        let op = AddRmsNorm {
            dim: hidden,
            dtype: DTYPE,
            eps: 1e-5,
            alpha: 1.0,
        };
        let out = || Operand::out(&rows);
        Case::new(
            op,
            vec![
                out(),
                out(),
                normal(&rows),
                normal(&rows),
                normal(&[hidden]),
            ],
        )
    }));
    list.push(timing::<AddLayerNorm>("rows", 9.0 * n, None, move || {
        let op = AddLayerNorm {
            dim: hidden,
            dtype: DTYPE,
            eps: 1e-5,
            alpha: 1.0,
        };
        let (out, vector) = (|| Operand::out(&rows), || normal(&[hidden]));
        Case::new(
            op,
            vec![
                out(),
                out(),
                normal(&rows),
                normal(&rows),
                vector(),
                vector(),
            ],
        )
    }));
    list.push(timing::<Rope>("queries", 3.0 * n / 2.0, None, move || {
        let op = Rope {
            head_dim: m.head_dim,
            rotary_dim: m.rotary_dim,
            streams: 1,
            layout: m.layout,
            dtype: DTYPE,
        };
        rope_case(op, TOKENS, m.heads)
    }));
    let (turned, new) = (
        TOKENS * (m.heads + m.kv_heads) * m.head_dim,
        2 * TOKENS * m.kv_heads * m.head_dim,
    );
    list.push(timing::<RopeKvWrite>(
        "prompt",
        (3 * turned / 2) as f64,
        // Turned in place; then the keys are there, and the values are read.
        Some((4 * turned + 3 * new) as f64),
        move || rope_kv_write_case(&m, DTYPE, TOKENS),
    ));
    list.push(timing::<Glu>(
        "swiglu",
        10.0 * (TOKENS * ffn) as f64,
        None,
        move || {
            let op = Glu {
                dim: ffn,
                act: Act::Silu,
                gate: Half::First,
                limit: None,
                dtype: DTYPE,
            };
            Case::new(
                op,
                vec![Operand::out(&[TOKENS, ffn]), normal(&[TOKENS, 2 * ffn])],
            )
        },
    ));
    list.push(timing::<Activation>("gelu", 20.0 * n, None, move || {
        let op = Activation {
            act: Act::GeluTanh,
            dtype: DTYPE,
        };
        Case::new(op, vec![Operand::out(&rows), normal(&rows)])
    }));
    list.push(timing::<Elementwise>("sum", 2.0 * n, None, move || {
        let op = Elementwise {
            kind: Binary::Add,
            dtype: DTYPE,
            alpha: 1.0,
        };
        Case::new(op, vec![Operand::out(&rows), normal(&rows), normal(&rows)])
    }));
    list.push(timing::<Cast>("to_f32", n, None, move || {
        let op = Cast {
            from: DTYPE,
            to: DType::F32,
        };
        Case::new(op, vec![Operand::out(&rows), normal(&rows)])
    }));
    list.push(timing::<StridedCopy>("rows", n, None, move || {
        let op = StridedCopy { dtype: DTYPE };
        let x = normal(&rows).layout(crate::Layout::Padded(64));
        Case::new(op, vec![Operand::out(&rows), x])
    }));
    let picked = 4.0 * n;
    list.push(timing::<Embedding>("rows", n, Some(picked), move || {
        let (vocab, dim) = (4096, hidden);
        let op = Embedding {
            vocab,
            dim,
            table: WeightFormat::Dense(DTYPE),
            out: DTYPE,
            tied: false,
        };
        let ids = (0..TOKENS).map(|i| (i * 31 % vocab) as f64).collect();
        let table = normal(&[vocab, dim]);
        Case::new(
            op,
            vec![Operand::out(&rows), Operand::values(&[TOKENS], ids), table],
        )
    }));
    let written = (8 * TOKENS * m.kv_heads * m.head_dim) as f64;
    list.push(timing::<KvWrite>(
        "prompt",
        written / 8.0,
        Some(written),
        move || {
            let pages = TOKENS / 16;
            let op = KvWrite {
                kv_heads: m.kv_heads,
                head_dim: m.head_dim,
                pages,
                page_size: 16,
                dtype: DTYPE,
                kv: DTYPE,
            };
            let (cache, new) = (
                [pages, m.kv_heads, 16, m.head_dim],
                [TOKENS, m.kv_heads, m.head_dim],
            );
            let slots = (0..TOKENS).map(|i| i as f64).collect();
            let slots = Operand::values(&[TOKENS], slots);
            Case::new(
                op,
                vec![
                    normal(&cache),
                    normal(&cache),
                    normal(&new),
                    normal(&new),
                    slots,
                ],
            )
        },
    ));
    list.push(timing::<Argmax>(
        "logits",
        m.vocab as f64,
        None,
        move || {
            let op = Argmax { dtype: DType::F32 };
            Case::new(op, vec![Operand::out(&[1]), normal(&[1, m.vocab])])
        },
    ));
    list.push(timing::<Sample>(
        "logits",
        m.vocab as f64,
        None,
        move || {
            let control = SampleControl {
                temperature: 0.8,
                top_p: 0.8,
                repetition_penalty: 1.1,
                top_k: 50,
                seed: 1,
                step: 0,
            };
            let history = (0..TOKENS).map(|i| (i * 31 % m.vocab) as f64).collect();
            Case::new(
                Sample { vocab: m.vocab },
                vec![
                    Operand::out(&[1]),
                    normal(&[1, m.vocab]),
                    Operand::values(&[1, 3], control.floats().map(f64::from).to_vec()),
                    Operand::values(&[1, 4], control.ints().map(f64::from).to_vec()),
                    Operand::values(&[1, TOKENS], history),
                    Operand::values(&[1], vec![TOKENS as f64]),
                ],
            )
        },
    ));
    list.push(timing::<TopK>("logits", m.vocab as f64, None, move || {
        let op = TopK {
            k: 50,
            dtype: DType::F32,
        };
        let out = || Operand::out(&[1, 50]);
        Case::new(op, vec![out(), out(), normal(&[1, m.vocab])])
    }));
    list
}

fn product(n: usize, k: usize, dtype: DType, weight: WeightFormat) -> Matmul {
    Matmul {
        n,
        k,
        x: dtype,
        weight,
        out: dtype,
        bias: false,
        activation: None,
        residual: false,
    }
}

/// One operation. `bytes` where not every argument is read in full.
fn timing<O: Conformance>(
    name: &str,
    operations: f64,
    bytes: Option<f64>,
    make: impl Fn() -> Case<O> + Send + Sync + 'static,
) -> Timing {
    Timing {
        op: O::NAME,
        name: name.into(),
        operations,
        bytes,
        make: Box::new(move |suite| suite.launches(&make())),
    }
}

/// Makes the arguments of an operation.
type Making = dyn for<'a> Fn(&'a Suite) -> Result<Launches<'a>> + Send + Sync;

/// An operation at one of these sizes.
pub struct Timing {
    /// Its name.
    pub op: &'static str,
    /// What tells it from others of the same operation.
    pub name: String,
    /// Operations of a launch, two for each multiply-add.
    pub operations: f64,
    bytes: Option<f64>,
    make: Box<Making>,
}

impl Timing {
    /// Its arguments on the suite's device, ready to be launched.
    ///
    /// # Errors
    /// What planning and allocating report.
    pub fn launches<'a>(&self, suite: &'a Suite) -> Result<Launches<'a>> {
        let mut launches = (self.make)(suite)?;
        launches.bytes = self.bytes.unwrap_or(launches.bytes);
        Ok(launches)
    }

    /// The measurement as a check.
    fn check(self) -> Check {
        let (op, about) = (self.op, format!("{} {}", self.op, self.name));
        let name = format!("speed/{}", self.name);
        let run = {
            let about = about.clone();
            move |suite: &Suite| {
                let outcome = Outcome::new(op, about.clone());
                match self.measure(suite) {
                    Ok((how, speed)) => Outcome {
                        how: Some(how),
                        speed: Some(speed),
                        ..outcome
                    },
                    Err(e) => {
                        let status = match e.kind() {
                            ErrorKind::Unsupported => Status::Unsupported,
                            ErrorKind::OutOfMemory => Status::NotRun,
                            ErrorKind::DeviceLost => Status::DeviceLost,
                            _ => Status::Fail,
                        };
                        outcome.ended(status, e.to_string())
                    }
                }
            }
        };
        Check::with_outcome(Level::Speed, op, &name, &about, run)
    }

    fn measure(&self, suite: &Suite) -> Result<(How, Speed)> {
        let [bandwidth, peak] = suite.ceilings()?;
        let mut launches = self.launches(suite)?;
        let (seconds, bytes, flops) = (launches.median()?, launches.bytes, self.operations);
        let speed = Speed {
            seconds,
            bytes,
            flops,
            of_roofline: (bytes / bandwidth).max(flops / peak) / seconds,
            bandwidth,
            peak,
        };
        match seconds > 0.0 && speed.of_roofline.is_finite() {
            true => Ok((launches.how, speed)),
            false => Err(Error::new(
                ErrorKind::Unexpected,
                format!("time {}", self.op),
                format!("a launch took {seconds} s by the device's clock"),
            )),
        }
    }
}

impl fmt::Debug for Timing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}, {} operations",
            self.op, self.name, self.operations
        )
    }
}

/// Bytes per second of a large copy, operations per second of a large product.
pub(crate) fn ceilings(suite: &Suite) -> Result<[f64; 2]> {
    let shape = [4096, 4096];
    let copy = Case::new(
        StridedCopy { dtype: DType::F32 },
        vec![
            Operand::out(&shape),
            Operand::random(&shape, Generator::Constant),
        ],
    );
    let mut copies = suite.launches(&copy)?;
    let bandwidth = copies.bytes / copies.median()?;
    let (m, n, k) = (512, 2048, 2048);
    let mut peak = 0.0f64;
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let case = matmul_case(product(n, k, dtype, WeightFormat::Dense(dtype)), m);
        match suite.launches(&case).and_then(|mut l| l.median()) {
            Ok(seconds) => peak = peak.max(2.0 * (m * n * k) as f64 / seconds),
            Err(e) if e.kind() == ErrorKind::Unsupported => {}
            Err(e) => return Err(e),
        }
    }
    match peak > 0.0 {
        true => Ok([bandwidth, peak]),
        false => Err(Error::unsupported(
            "measure the peak",
            "no matrix product at all",
        )),
    }
}
