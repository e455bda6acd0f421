//! One matrix product of a GLM, with weights that are not in a cache.

use std::cell::Cell;

use hal::{Buffer, DType, Result, Stream, View, WeightFormat};
use ops::{Context, HostWeight, Matmul, MatmulArgs, Plan};

/// Packed weights of one product are repeated until they exceed this: far beyond the last-level cache.
const COLD_BYTES: usize = 256 << 20;

/// A weight matrix of a model.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// The model.
    pub model: &'static str,
    /// The layer: `qkv`, `o`, `up` (gate and up together), `down`.
    pub layer: &'static str,
    /// Output features.
    pub n: usize,
    /// Input features.
    pub k: usize,
}

const fn shape(model: &'static str, layer: &'static str, n: usize, k: usize) -> Shape {
    Shape { model, layer, n, k }
}

/// The matrices of one layer of a small and of a usual GLM.
pub const SHAPES: [Shape; 8] = [
    shape("GLM-Edge-1.5B", "qkv", 3072, 2048),
    shape("GLM-Edge-1.5B", "o", 2048, 2048),
    shape("GLM-Edge-1.5B", "up", 12288, 2048),
    shape("GLM-Edge-1.5B", "down", 2048, 6144),
    shape("ChatGLM3-6B", "qkv", 4608, 4096),
    shape("ChatGLM3-6B", "o", 4096, 4096),
    shape("ChatGLM3-6B", "up", 27392, 4096),
    shape("ChatGLM3-6B", "down", 4096, 13696),
];

/// A planned product with its arguments in place.
pub struct Product {
    plan: Plan<Matmul>,
    stream: std::cell::RefCell<Box<dyn Stream>>,
    weights: Vec<Buffer>,
    next: Cell<usize>,
    out: Buffer,
    x: Buffer,
    workspace: Buffer,
    m: usize,
}

impl Product {
    /// `m` rows of x by a weight of `shape`.
    ///
    /// # Errors
    /// What planning and allocating report.
    pub fn new(
        context: &Context,
        shape: Shape,
        m: usize,
        x: DType,
        format: WeightFormat,
    ) -> Result<Self> {
        let Shape { n, k, .. } = shape;
        let device = context.device();
        let plan = context.plan(Matmul::new(n, k, x, format))?;
        // Values do not matter to speed, as long as none is subnormal, infinite or NaN.
        let pattern = |bytes: usize| -> Vec<u8> {
            (0..bytes)
                .map(|i| if i % 2 == 0 { (i % 251) as u8 } else { 0x3c })
                .collect()
        };
        let (scales, dtype) = format.row_scales(k);
        let data = pattern(n * format.row_bytes(k));
        let scales = pattern(n * scales * dtype.bytes());
        let host = HostWeight::new(format, n, k, data, scales)?;
        let mut weights = vec![plan.pack(&host)?];
        while weights.len() * weights[0].bytes() < COLD_BYTES {
            weights.push(plan.pack(&host)?);
        }
        let (x_bytes, out_bytes) = (m * k * x.bytes(), m * n * x.bytes());
        let mut stream = device.stream()?;
        let x_buffer = device.alloc(x_bytes)?;
        stream.upload(&View::of_bytes(&x_buffer), &pattern(x_bytes))?;
        let workspace = device.alloc(plan.workspace_bytes(&[&[m, n], &[m, k]]))?;
        let product = Self {
            stream: stream.into(),
            weights,
            next: Cell::new(0),
            out: device.alloc(out_bytes)?,
            x: x_buffer,
            workspace,
            m,
            plan,
        };
        // Memory is mapped on its first use.
        product.run()?;
        Ok(product)
    }

    /// Multiplies once, with the next copy of the weight.
    ///
    /// # Errors
    /// What the launch reports.
    pub fn run(&self) -> Result<()> {
        let op = self.plan.op();
        let i = self.next.get();
        self.next.set((i + 1) % self.weights.len());
        let args = MatmulArgs {
            out: View::new(&self.out, op.out, &[self.m, op.n])?,
            x: View::new(&self.x, op.x, &[self.m, op.k])?,
            weight: View::of_bytes(&self.weights[i]),
            bias: None,
            residual: None,
        };
        let mut stream = self.stream.borrow_mut();
        self.plan
            .run(&mut **stream, args, &View::of_bytes(&self.workspace))?;
        stream.synchronize()
    }

    /// Bytes of the packed weight, all read by one run.
    pub fn weight_bytes(&self) -> usize {
        self.weights[0].bytes()
    }

    /// Operations of one run: two for each product.
    pub fn operations(&self) -> f64 {
        2.0 * self.m as f64 * self.plan.op().n as f64 * self.plan.op().k as f64
    }
}
