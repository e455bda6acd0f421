//! The operations of a model, each on its own, at the sizes of prompts, batches and long caches.

use hal::{DType, ErrorKind, Result, Stream, WeightFormat};
use ops::{Context, Rope};

use super::attention::attend;
use super::rows::{activated, added, copied, normalised, turned};
use super::{Clock, Figure, Limits, Operation, Product, matrices};
use crate::architecture::{Architecture, Norm, Position};

/// What is measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Sizes {
    /// Type of activations and cache.
    pub dtype: DType,
    /// Formats of the matrices.
    pub weights: Vec<WeightFormat>,
    /// Rows of products.
    pub rows: Vec<usize>,
    /// Tokens of prompts that attention sees whole.
    pub prompts: Vec<usize>,
    /// Slots of the caches over which one token attends.
    pub depths: Vec<usize>,
    /// Sequences that attend at a time.
    pub batches: Vec<usize>,
    /// Bytes of the largest operand of what memory bounds.
    pub bytes: usize,
}

/// Measures the operations of `a` at `sizes`; `tell` hears each key that is `wanted` before it is measured, and then the
/// figure. What the device lacks, what does not fit and what would take longer than the clock's seconds is skipped, with
/// the reason.
///
/// # Errors
/// `DeviceLost`, and what else ends all measuring.
pub fn operations(
    context: &Context,
    a: &Architecture,
    sizes: &Sizes,
    limits: &Limits,
    clock: &mut Clock,
    wanted: &dyn Fn(&str) -> bool,
    tell: &mut dyn FnMut(Told),
) -> Result<()> {
    let mut bench = Bench {
        context,
        sizes,
        limits,
        clock,
        wanted,
        tell,
        slowest: None,
    };
    bench.products(a)?;
    bench.attention(a)?;
    bench.rows(a)
}

/// What a listener hears.
#[derive(Clone, Debug)]
pub enum Told {
    /// This key is next.
    Begun(String),
    /// This was found.
    Found(Box<Figure>),
}

struct Bench<'a> {
    context: &'a Context,
    sizes: &'a Sizes,
    limits: &'a Limits,
    clock: &'a mut Clock,
    wanted: &'a dyn Fn(&str) -> bool,
    tell: &'a mut dyn FnMut(Told),
    /// Seconds and work of the last size of the same operation: what a larger one will take follows from it.
    slowest: Option<[f64; 2]>,
}

impl Bench<'_> {
    fn products(&mut self, a: &Architecture) -> Result<()> {
        let (context, dtype) = (self.context, self.sizes.dtype);
        for (_, n, k) in matrices(a) {
            for &format in &self.sizes.weights {
                let keys = self
                    .sizes
                    .rows
                    .iter()
                    .map(|&m| (m, format!("matmul/m{m}/n{n}/k{k}/{format}")));
                let keys: Vec<_> = keys.filter(|(_, key)| (self.wanted)(key)).collect();
                if keys.is_empty() {
                    continue;
                }
                let product = match Product::new(context, [n, k], dtype, format) {
                    Ok(product) => product,
                    Err(e) => {
                        for (_, key) in keys {
                            self.skip(key, &e)?;
                        }
                        continue;
                    }
                };
                self.slowest = None;
                for (m, key) in keys {
                    let work = (m * n * k) as f64;
                    self.measure(key, work, |_| product.rows(context, m))?;
                }
            }
        }
        Ok(())
    }

    fn attention(&mut self, a: &Architecture) -> Result<()> {
        let (context, dtype) = (self.context, self.sizes.dtype);
        let heads = format!("h{}/kv{}/d{}/{dtype}", a.heads, a.kv_heads, a.head_dim);
        self.slowest = None;
        for &n in &self.sizes.prompts {
            let key = format!("attention/prefill/n{n}/{heads}");
            let work = (n * n) as f64;
            self.measure(key, work, |stream| {
                attend(context, stream, a, dtype, [1, n, n])
            })?;
        }
        for &batch in &self.sizes.batches {
            self.slowest = None;
            for &n in &self.sizes.depths {
                let key = format!("attention/decode/n{n}/b{batch}/{heads}");
                let work = (batch * n) as f64;
                self.measure(key, work, |stream| {
                    attend(context, stream, a, dtype, [batch, 1, n])
                })?;
            }
        }
        Ok(())
    }

    /// Copies, norms, rotations and gates.
    fn rows(&mut self, a: &Architecture) -> Result<()> {
        let (context, dtype, bytes) = (self.context, self.sizes.dtype, self.sizes.bytes);
        self.slowest = None;
        let of = |cols: usize| (bytes / (cols * dtype.bytes())).max(1);
        let (dim, rows) = (a.hidden, of(a.hidden));
        let name = match a.norm {
            Norm::Rms(_) => "rms_norm",
            Norm::Layer(_) => "layer_norm",
        };
        self.measure(format!("copy/{rows}x{dim}/{dtype}"), 0.0, |stream| {
            copied(context, stream, dtype, [rows, dim])
        })?;
        self.measure(format!("{name}/{rows}x{dim}/{dtype}"), 0.0, |stream| {
            normalised(context, stream, a, dtype, rows)
        })?;
        self.measure(format!("add_{name}/{rows}x{dim}/{dtype}"), 0.0, |stream| {
            added(context, stream, a, dtype, rows)
        })?;
        if let Position::Rope(recipe) = a.position {
            let (heads, head_dim) = (a.heads + a.kv_heads, a.head_dim);
            let tokens = of(heads * head_dim);
            let op = Rope {
                head_dim,
                rotary_dim: recipe.rotary_dim,
                streams: a.blank.streams(),
                layout: recipe.layout,
                dtype,
            };
            let key = format!("rope/{tokens}x{heads}x{head_dim}/{dtype}");
            self.measure(key, 0.0, |stream| {
                turned(context, stream, op, [tokens, heads])
            })?;
        }
        let (ffn, rows) = (a.ffn, of(a.up_rows()));
        let name = if a.gate.is_some() {
            "glu"
        } else {
            "activation"
        };
        self.measure(format!("{name}/{rows}x{ffn}/{dtype}"), 0.0, |stream| {
            activated(context, stream, a, dtype, rows)
        })
    }

    /// Measures what `make` makes. `work` grows with the time that it takes; 0: it has no smaller size before it.
    fn measure(
        &mut self,
        key: String,
        work: f64,
        make: impl FnOnce(&mut dyn Stream) -> Result<Operation>,
    ) -> Result<()> {
        if !(self.wanted)(&key) {
            return Ok(());
        }
        (self.tell)(Told::Begun(key.clone()));
        let expected = self
            .slowest
            .map_or(0.0, |[seconds, before]| seconds * work / before);
        // Twice: the first launch is not measured.
        if 2.0 * expected > self.clock.seconds() {
            let why = format!("a launch would take about {expected:.1} s; --seconds allows it");
            self.found(Figure::skipped(key, why));
            return Ok(());
        }
        let operation = make(self.clock.stream());
        let timed = operation.and_then(|mut operation| {
            let seconds = self.clock.time(&mut operation)?;
            Ok((operation, seconds))
        });
        let (operation, seconds) = match timed {
            Ok(timed) => timed,
            Err(e) => return self.skip(key, &e),
        };
        if work > 0.0 {
            self.slowest = Some([seconds.median, work]);
        }
        let (amounts, dtype) = (operation.amounts, self.sizes.dtype);
        let figure = Figure::measured(key, seconds, amounts, dtype, self.limits);
        self.found(Figure {
            how: Some(operation.how),
            ..figure
        });
        Ok(())
    }

    /// Notes why there is no figure. What ends all measuring is an error.
    fn skip(&mut self, key: String, e: &hal::Error) -> Result<()> {
        match e.kind() {
            ErrorKind::Unsupported | ErrorKind::OutOfMemory | ErrorKind::InvalidArgument => {
                self.found(Figure::skipped(key, e));
                Ok(())
            }
            kind => Err(
                hal::Error::new(kind, format!("measure {key}"), e.to_string())
                    .next_step("run `glm conform` on this device"),
            ),
        }
    }

    fn found(&mut self, figure: Figure) {
        (self.tell)(Told::Found(Box::new(figure)));
    }
}
