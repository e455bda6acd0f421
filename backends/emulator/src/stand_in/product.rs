//! A product to give to a stand-in, for tests of vendors' libraries of products.

use backend_simt::library::Cut;
use conformance::Suite;
use hal::{Buffer, DType, Result, Stream, View, WeightFormat};
use ops::reference::Tensor;
use ops::{Accelerator, Context, HostWeight, Matmul, MatmulArgs, Op, Plan};

use super::StandIn;

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

    /// Queues it while a stream is captured, the first of its kind, and replays that over what is no number.
    ///
    /// # Errors
    /// Those of the device.
    ///
    /// # Panics
    /// When a number is not the reference's.
    pub fn replays(&self) -> Result<()> {
        let mut stream = self.accelerator.device.stream()?;
        stream.begin_capture()?;
        self.queue(&mut *stream)?;
        let graph = stream.end_capture()?;
        for _ in 0..2 {
            let nothing = vec![0xff; self.out.bytes()];
            stream.upload(&View::of_bytes(&self.out), &nothing)?;
            graph.launch(&mut *stream)?;
            self.assert_right(&mut *stream)?;
        }
        Ok(())
    }
}

/// A product of more rows asks for as much workspace as one of fewer, or more, and for no absurd amount.
///
/// # Panics
/// When it does not.
pub fn more_rows_never_need_less_workspace(accelerator: Accelerator) {
    let context = Context::new(accelerator);
    let dense = WeightFormat::Dense(DType::BF16);
    for (weight, bias) in [(dense, true), (dense, false), (WeightFormat::Int8Row, true)] {
        let op = Matmul {
            bias,
            ..Matmul::new(20_000, 64, DType::BF16, weight)
        };
        let plan = context.plan(op.clone()).expect("every device has it");
        let mut before = 0;
        for m in 0..2000 {
            let shapes: [&[usize]; 4] = [&[m, op.n], &[m, op.k], &[], &[op.n]];
            let bytes = plan.workspace_bytes(&shapes);
            assert!(bytes >= before, "{m}: {bytes} < {before}");
            before = bytes;
        }
        assert!((32 << 20..200 << 20).contains(&before), "{before}");
    }
}

/// Slabs as small as they can be, of which the suite's own sizes have several.
pub const SMALL: Cut = Cut {
    weight_bytes: 1,
    sums_bytes: 1,
};

/// The suite's products on a device that cuts them up by [`SMALL`]: they are right, and went that way.
///
/// # Panics
/// When they are not, or did not.
pub fn are_right_in_many_pieces(accelerator: Accelerator, stand_in: &StandIn) {
    let suite = Suite::new(accelerator);
    let report = suite.run_where::<Matmul>(|case| case.op.n > 128);
    println!("{report}");
    report.require_pass().expect("every product is right");
    let ran = stand_in.kernels();
    for kernel in ["dequantise", "sums_epilogue"] {
        assert!(ran.contains(kernel), "{kernel} is not among {ran:?}");
    }
    drop(suite);
    assert_eq!(stand_in.live(), [""; 0]);
}
