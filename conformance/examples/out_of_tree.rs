//! A back end outside this tree runs the suite: memory and streams of another device, and three operations of its own.
//!
//! `cargo run -p glm-conformance --example out_of_tree` prints the summary. The five lines are those of [`main`].

use std::sync::Arc;

use conformance::number::{decode, encode};
use conformance::report::{Document, Verdict};
use conformance::{Depth, Selection, reference_device};
use hal::{DType, Result, Stream, View};
use ops::{Accelerator, Binary, Cast, Elementwise, Launch, Ops, SafeLaunch, StridedCopy};

/// What the kernels compute from the elements of their inputs.
type Kernel = Arc<dyn Fn(&[f64]) -> f64 + Send + Sync>;

/// A kernel over elements, run on the host.
struct Map(Kernel);

impl SafeLaunch for Map {
    fn run(&self, stream: &mut dyn Stream, args: &[View<'_>]) -> Result<()> {
        let (out, inputs) = (&args[0], &args[1..]);
        let mut images = Vec::new();
        for view in args {
            images.push(read(stream, view)?);
        }
        for at in 0..out.len() {
            let of = |(i, view): (usize, &View<'_>)| {
                decode(view.dtype(), &images[i + 1][offset(view, at)..])
            };
            let elements: Vec<f64> = inputs.iter().enumerate().map(of).collect();
            let mut bytes = Vec::new();
            encode(out.dtype(), (self.0)(&elements), &mut bytes);
            let at = offset(out, at);
            images[0][at..at + bytes.len()].copy_from_slice(&bytes);
        }
        stream.upload(&span(out)?, &images[0])
    }
}

/// All bytes from a view's first element to its last.
fn span<'a>(view: &View<'a>) -> Result<View<'a>> {
    let range = view.range_bytes();
    View::at(view.buffer(), range.start, DType::U8, &[range.len()])
}

fn read(stream: &mut dyn Stream, view: &View<'_>) -> Result<Vec<u8>> {
    let span = span(view)?;
    let mut bytes = vec![0; span.bytes()];
    stream.download(&mut bytes, &span)?;
    Ok(bytes)
}

/// Where row-major element `i` of a view is within its span.
fn offset(view: &View<'_>, mut i: usize) -> usize {
    let mut at = 0;
    for (&n, &stride) in view.shape().iter().zip(view.strides()).rev() {
        at += i % n * stride;
        i /= n;
    }
    at * view.dtype().bytes()
}

fn map(kernel: impl Fn(&[f64]) -> f64 + Send + Sync + 'static) -> Result<Option<Arc<dyn Launch>>> {
    Ok(Some(Arc::new(Map(Arc::new(kernel)))))
}

/// Opens the device. A `sloppy` one computes elementwise in bf16.
fn open(sloppy: bool) -> Result<Accelerator> {
    let elementwise = move |op: &Elementwise| {
        let (kind, alpha) = (op.kind, op.alpha);
        map(move |x| {
            let (a, b) = (x[0] as f32, x[1] as f32);
            let y = match kind {
                Binary::Add => a + alpha * b,
                Binary::Sub => a - alpha * b,
                Binary::Mul => a * (alpha * b),
            };
            match sloppy {
                true => conformance::number::round(DType::BF16, y.into()),
                false => y.into(),
            }
        })
    };
    Ok(Accelerator {
        device: reference_device::open().device,
        ops: Ops {
            elementwise: Some(Arc::new(elementwise)),
            copy: Some(Arc::new(|_: &StridedCopy| map(|x| x[0]))),
            cast: Some(Arc::new(|_: &Cast| map(|x| x[0]))),
            ..Ops::none()
        },
    })
}

fn run(sloppy: bool) -> Result<Document> {
    let selection = Selection {
        levels: "0..2".parse().expect("levels"),
        depth: Depth::Quick,
        ..Selection::default()
    };
    conformance::run(move || open(sloppy), &selection, Vec::new())
}

fn main() -> Result<()> {
    let document = run(false)?;
    println!("{}", document.markdown());
    assert_eq!(document.summary.verdict, Verdict::Passed);
    Ok(())
}

#[test]
fn an_out_of_tree_back_end_passes_and_a_sloppy_one_fails() {
    let document = run(false).unwrap();
    assert_eq!(
        document.summary.verdict,
        Verdict::Passed,
        "{}",
        document.markdown()
    );
    assert!(document.summary.missing.contains(&"argmax".to_owned()));
    let sloppy = run(true).unwrap();
    assert_eq!(sloppy.summary.verdict, Verdict::Failed);
    assert!(sloppy.markdown().contains("`elementwise/f32/"));
}
