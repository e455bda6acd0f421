//! A product to give to a stand-in, for tests of vendors' libraries of products.

use hal::{Buffer, DType, Result, Stream, View, WeightFormat};
use ops::reference::Tensor;
use ops::{Accelerator, Context, HostWeight, Matmul, MatmulArgs, Op, Plan};

/// A product of small integers, which every type holds, and its operands on a device.
#[derive(Debug)]
pub struct Product {
    /// The device.
    pub accelerator: Accelerator,
    /// What is computed; nothing before it was queued.
    pub out: Buffer,
    plan: Plan<Matmul>,
    want: Tensor,
    weight: Buffer,
    x: Buffer,
    bias: Buffer,
    workspace: Buffer,
}

impl Product {
    /// Of `m` rows in bf16.
    ///
    /// # Errors
    /// Those of the device.
    pub fn new(
        accelerator: Accelerator,
        weight: WeightFormat,
        bias: bool,
        m: usize,
    ) -> Result<Self> {
        let op = Matmul {
            bias,
            out: DType::F32,
            ..Matmul::new(40, 96, DType::BF16, weight)
        };
        let plan = Context::new(accelerator.clone()).plan(op.clone())?;
        // The last column is as large as 8 bits hold, so that a scale is 1.
        let number = |i: usize, columns: usize| match i % columns + 1 == columns {
            true => 127.0,
            false => (i * 7 % 11) as f64 - 5.0,
        };
        let numbers = |rows: usize, columns: usize| {
            let all = (0..rows * columns).map(|i| number(i, columns));
            Tensor::new(&[rows, columns], all.collect())
        };
        let (x, w) = (numbers(m, op.k), numbers(op.n, op.k));
        let bias = numbers(1, op.n);
        let mut inputs = vec![x.clone(), w.clone()];
        inputs.extend(op.bias.then(|| bias.clone()));
        let want = op.reference(&[&[m, op.n]], &inputs).swap_remove(0);
        let bf16 = |t: &Tensor| -> Vec<u8> {
            let numbers = t.data.iter().map(|&x| (x as f32).to_bits() >> 16);
            numbers
                .flat_map(|bits| (bits as u16).to_le_bytes())
                .collect()
        };
        let host = HostWeight::new(
            WeightFormat::Dense(DType::BF16),
            op.n,
            op.k,
            bf16(&w),
            Vec::new(),
        )?;
        let device = &accelerator.device;
        let mut stream = device.stream()?;
        let mut upload = |bytes: &[u8]| -> Result<Buffer> {
            let buffer = device.alloc(bytes.len())?;
            stream.upload(&View::of_bytes(&buffer), bytes)?;
            Ok(buffer)
        };
        let x = upload(&bf16(&x))?;
        let floats = bias.data.iter().flat_map(|&x| (x as f32).to_le_bytes());
        let bias = upload(&floats.collect::<Vec<_>>())?;
        stream.synchronize()?;
        let shapes: [&[usize]; 4] = [&[m, op.n], &[m, op.k], &[], &[op.n]];
        Ok(Self {
            weight: plan.pack(&host.convert(weight)?)?,
            out: device.alloc(4 * m * op.n)?,
            workspace: device.alloc(plan.workspace_bytes(&shapes))?,
            x,
            bias,
            want,
            plan,
            accelerator,
        })
    }

    /// Queues it.
    ///
    /// # Errors
    /// Those of the device.
    pub fn queue(&self, stream: &mut dyn Stream) -> Result<()> {
        let [m, n] = [self.want.shape[0], self.want.shape[1]];
        let k = self.plan.op().k;
        let bias = View::new(&self.bias, DType::F32, &[n])?;
        let args = MatmulArgs {
            out: View::new(&self.out, DType::F32, &[m, n])?,
            x: View::new(&self.x, DType::BF16, &[m, k])?,
            weight: View::of_bytes(&self.weight),
            bias: self.plan.op().bias.then_some(bias),
            residual: None,
        };
        self.plan
            .run(stream, args, &View::of_bytes(&self.workspace))
    }

    /// Looks at what it has become.
    ///
    /// # Errors
    /// Those of the device.
    ///
    /// # Panics
    /// When a number is not the reference's.
    pub fn assert_right(&self, stream: &mut dyn Stream) -> Result<()> {
        let mut bytes = vec![0; self.out.bytes()];
        stream.download(&mut bytes, &View::of_bytes(&self.out))?;
        let got = bytes
            .chunks(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        assert!(got.map(f64::from).eq(self.want.data.iter().copied()));
        Ok(())
    }

    /// Queues it on a stream of its own, and looks at what it has become.
    ///
    /// # Errors
    /// Those of the device.
    ///
    /// # Panics
    /// When a number is not the reference's.
    pub fn run(&self) -> Result<()> {
        let mut stream = self.accelerator.device.stream()?;
        self.queue(&mut *stream)?;
        self.assert_right(&mut *stream)
    }
}
