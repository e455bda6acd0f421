//! Attention by the library's own operator: where it is used, what it is told of, and that lengths in device memory may change.
//! Emulated.

mod common;

use backend_emulator::stand_in::StandIn;
use conformance::Suite;
use hal::{Buffer, DType, Stream, View};
use half::{bf16, f16};
use ops::reference::Tensor;
use ops::{Attention, AttentionArgs, Context, How, Mask, Op, Plan};

use common::CANN;

const OPERATOR: &str = "aclnnFusedInferAttentionScoreV2";
const PREPARED: &str = "aclnnFusedInferAttentionScoreV2GetWorkspaceSize";

/// Pages of the cache, and of each sequence's table.
const PAGES: usize = 12;
const TABLE: usize = 4;

fn spec(dtype: DType, mask: Mask, page_size: usize) -> Attention {
    Attention {
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        pages: PAGES,
        page_size,
        scale: 0.125,
        mask,
        dtype,
        kv: dtype,
    }
}

/// A number between −1 and 1.
fn number(i: usize) -> f32 {
    ((i * 7919 + 13) % 2003) as f32 / 1001.5 - 1.0
}

/// `n` numbers as a type holds them, and their bytes.
fn numbers(dtype: DType, seed: usize, n: usize) -> (Vec<f64>, Vec<u8>) {
    let all = (0..n).map(|i| {
        let x = number(i + seed);
        match dtype {
            DType::BF16 => (bf16::from_f32(x).to_f64(), bf16::from_f32(x).to_le_bytes()),
            _ => (f16::from_f32(x).to_f64(), f16::from_f32(x).to_le_bytes()),
        }
    });
    let (values, bytes): (Vec<f64>, Vec<[u8; 2]>) = all.unzip();
    (values, bytes.concat())
}

/// Sequences of a batch: new tokens, slots, and the visible prefix.
type Batch<'a> = &'a [(usize, usize, usize)];

/// An operation with memory for batches of some size.
struct Lab {
    plan: Plan<Attention>,
    tokens: usize,
    sequences: usize,
    inputs: Vec<Tensor>,
    out: Buffer,
    q: Buffer,
    k: Buffer,
    v: Buffer,
    table: Buffer,
    starts: Buffer,
    lengths: Buffer,
    prefixes: Buffer,
    workspace: Buffer,
}

impl Lab {
    fn new(
        context: &Context,
        stream: &mut dyn Stream,
        op: &Attention,
        [tokens, sequences]: [usize; 2],
    ) -> Self {
        let device = context.device().clone();
        let plan = context.plan(op.clone()).unwrap();
        let mut inputs = Vec::new();
        let mut filled = |shape: &[usize]| {
            let (values, bytes) = numbers(op.dtype, 31 * inputs.len(), shape.iter().product());
            let buffer = device.alloc(bytes.len()).unwrap();
            stream.upload(&View::of_bytes(&buffer), &bytes).unwrap();
            inputs.push(Tensor::new(shape, values));
            buffer
        };
        let cache = [PAGES, op.kv_heads, op.page_size, op.head_dim];
        let q = filled(&[tokens, op.heads, op.head_dim]);
        let (k, v) = (filled(&cache), filled(&cache));
        let i32s = |n: usize| device.alloc(4 * n).unwrap();
        let mut lab = Self {
            plan,
            tokens,
            sequences,
            inputs,
            out: device.alloc(2 * tokens * op.heads * op.head_dim).unwrap(),
            q,
            k,
            v,
            table: i32s(sequences * TABLE),
            starts: i32s(sequences + 1),
            lengths: i32s(sequences),
            prefixes: i32s(sequences),
            workspace: device.alloc(0).unwrap(),
        };
        let bytes = {
            let views = lab.args();
            let views: ops::ArgList<'_> = views.into();
            let shapes: Vec<&[usize]> = views.iter().map(View::shape).collect();
            lab.plan.workspace_bytes(&shapes)
        };
        lab.workspace = device.alloc(bytes).unwrap();
        lab
    }

    fn args(&self) -> AttentionArgs<'_> {
        let op = self.plan.op();
        let cache = [PAGES, op.kv_heads, op.page_size, op.head_dim];
        let rows = [self.tokens, op.heads, op.head_dim];
        let i32s = |buffer, shape: &[usize]| View::new(buffer, DType::I32, shape).unwrap();
        AttentionArgs {
            out: View::new(&self.out, op.dtype, &rows).unwrap(),
            q: View::new(&self.q, op.dtype, &rows).unwrap(),
            k_pages: View::new(&self.k, op.kv, &cache).unwrap(),
            v_pages: View::new(&self.v, op.kv, &cache).unwrap(),
            block_table: i32s(&self.table, &[self.sequences, TABLE]),
            q_start: i32s(&self.starts, &[self.sequences + 1]),
            kv_len: i32s(&self.lengths, &[self.sequences]),
            prefix: (op.mask == Mask::Prefix).then(|| i32s(&self.prefixes, &[self.sequences])),
        }
    }

    /// Brings a batch to the device; what should come of it.
    fn put(&self, stream: &mut dyn Stream, batch: Batch<'_>) -> Vec<f64> {
        assert_eq!(batch.len(), self.sequences);
        let op = self.plan.op();
        let mut starts = vec![0.0];
        for (new, ..) in batch {
            starts.push(starts[starts.len() - 1] + *new as f64);
        }
        // Pages in no order, and none where no slot is used.
        let mut table = Vec::new();
        for (s, (_, slots, _)) in batch.iter().enumerate() {
            let page = |i: usize| match i < slots.div_ceil(op.page_size) {
                true => ((s * TABLE + i) * 5 % PAGES) as f64,
                false => -1.0,
            };
            table.extend((0..TABLE).map(page));
        }
        let lengths: Vec<f64> = batch.iter().map(|of| of.1 as f64).collect();
        let prefixes: Vec<f64> = batch.iter().map(|of| of.2 as f64).collect();
        let mut upload = |to: &Buffer, values: &[f64]| {
            let bytes: Vec<u8> = values
                .iter()
                .flat_map(|&x| (x as i32).to_le_bytes())
                .collect();
            stream.upload(&View::of_bytes(to), &bytes).unwrap();
        };
        upload(&self.table, &table);
        upload(&self.starts, &starts);
        upload(&self.lengths, &lengths);
        upload(&self.prefixes, &prefixes);
        let mut inputs = self.inputs.clone();
        inputs.push(Tensor::new(&[self.sequences, TABLE], table));
        inputs.push(Tensor::new(&[starts.len()], starts));
        inputs.push(Tensor::new(&[self.sequences], lengths));
        if op.mask == Mask::Prefix {
            inputs.push(Tensor::new(&[self.sequences], prefixes));
        }
        let shape = [self.tokens, op.heads, op.head_dim];
        op.reference(&[&shape], &inputs).swap_remove(0).data
    }

    fn launch(&self, stream: &mut dyn Stream) {
        let workspace = View::of_bytes(&self.workspace);
        self.plan.run(stream, self.args(), &workspace).unwrap();
    }

    /// Values are smaller than 1: the result and the probabilities are rounded once each.
    fn require(&self, stream: &mut dyn Stream, want: &[f64]) {
        let mut bytes = vec![0; self.out.bytes()];
        stream
            .download(&mut bytes, &View::of_bytes(&self.out))
            .unwrap();
        let dtype = self.plan.op().dtype;
        let bound = 2.0 * dtype.unit_roundoff() + 1e-6;
        for (i, (got, want)) in bytes.chunks_exact(2).zip(want).enumerate() {
            let got = [got[0], got[1]];
            let got = match dtype {
                DType::BF16 => bf16::from_le_bytes(got).to_f64(),
                _ => f16::from_le_bytes(got).to_f64(),
            };
            assert!((got - want).abs() <= bound, "{i}: {got}, {want}");
        }
    }

    /// What [`Self::put`], [`Self::launch`] and [`Self::require`] do.
    fn check(&self, stream: &mut dyn Stream, batch: Batch<'_>) {
        let want = self.put(stream, batch);
        self.launch(stream);
        self.require(stream, &want);
    }
}

/// Whether every call is in `calls` as often as is said.
fn require_calls<const N: usize>(stand_in: &StandIn, wanted: [(&str, usize); N]) {
    let calls = stand_in.calls();
    let count = |name: &str| calls.iter().filter(|call| *call == name).count();
    assert_eq!(wanted.map(|(name, _)| (name, count(name))), wanted);
}

fn open() -> Context {
    Context::new(backend_ascend::open("ascend:0").unwrap())
}

/// Sequences of a token or none read pages where they are: one call for all of them.
#[test]
fn a_decoding_step_is_one_call() {
    CANN.emulated("a_decoding_step_is_one_call", &[], &[], |stand_in| {
        let context = open();
        let mut stream = context.device().stream().unwrap();
        for dtype in [DType::F16, DType::BF16] {
            for mask in [Mask::Causal, Mask::Prefix, Mask::Full] {
                let op = spec(dtype, mask, 16);
                let lab = Lab::new(&context, &mut *stream, &op, [3, 3]);
                assert_eq!(lab.plan.how(), How::Native);
                stand_in.calls();
                // The second sequence has no token, and the third token no sequence.
                lab.check(&mut *stream, &[(1, 33, 2), (0, 0, 0), (1, 64, 64)]);
                // Of each token: its sequence, lengths, and pages.
                let taken = 4 + usize::from(mask == Mask::Prefix);
                let wanted = [(OPERATOR, 1), ("aclnnIndexSelect", taken)];
                require_calls(&stand_in, wanted);
                // More tokens than one of a sequence are well too.
                lab.check(&mut *stream, &[(2, 40, 8), (1, 1, 1), (0, 7, 0)]);
            }
        }
        let op = spec(DType::F16, Mask::Causal, 16);
        let lab = Lab::new(&context, &mut *stream, &op, [1, 1]);
        stand_in.calls();
        lab.check(&mut *stream, &[(1, 50, 0)]);
        require_calls(&stand_in, [(OPERATOR, 1), ("aclnnIndexSelect", 0)]);
        // A cache without pages has no slot in use.
        context.plan(Attention { pages: 0, ..op }).unwrap();
        drop((lab, stream, context));
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

/// Prompts, alone and beside others, are a call for each sequence, over keys and values that were gathered.
#[test]
fn a_prompt_is_a_call_for_each_sequence() {
    let name = "a_prompt_is_a_call_for_each_sequence";
    CANN.emulated(name, &[], &[], |stand_in| {
        let context = open();
        let mut stream = context.device().stream().unwrap();
        let batches: [(usize, Batch<'_>); 3] = [
            (17, &[(17, 17, 9)]),
            (9, &[(9, 50, 50)]),
            // A prompt, a sequence without tokens, a step, and tokens of nobody.
            (16, &[(12, 30, 20), (0, 5, 1), (1, 61, 0)]),
        ];
        for page_size in [16, 5, 128] {
            for mask in [Mask::Causal, Mask::Prefix, Mask::Full] {
                for (tokens, batch) in batches {
                    // Pages of five slots have room for fewer.
                    let fits = |of: &&(usize, usize, usize)| of.1 <= TABLE * page_size;
                    if batch.iter().filter(fits).count() < batch.len() {
                        continue;
                    }
                    let op = spec(DType::F16, mask, page_size);
                    let lab = Lab::new(&context, &mut *stream, &op, [tokens, batch.len()]);
                    stand_in.calls();
                    lab.check(&mut *stream, batch);
                    let n = batch.len();
                    require_calls(&stand_in, [(OPERATOR, n), ("aclnnIndexSelect", 2 * n)]);
                }
            }
        }
        // No operator reads pages of five slots where they are.
        let op = spec(DType::F16, Mask::Causal, 5);
        let lab = Lab::new(&context, &mut *stream, &op, [2, 2]);
        stand_in.calls();
        lab.check(&mut *stream, &[(1, 19, 0), (1, 2, 0)]);
        require_calls(&stand_in, [(OPERATOR, 2), ("aclnnIndexSelect", 4)]);
        drop((lab, stream, context));
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

/// An executor knows the lengths of its list for good: they are those of the table, and not those in use.
#[test]
fn steps_of_other_lengths_are_prepared_once() {
    let name = "steps_of_other_lengths_are_prepared_once";
    CANN.emulated(name, &[], &[], |stand_in| {
        let context = open();
        let mut stream = context.device().stream().unwrap();
        let op = spec(DType::F16, Mask::Causal, 16);
        let mut labs = [2, 2].map(|n| Lab::new(&context, &mut *stream, &op, [n, n]));
        stand_in.calls();
        for (i, slots) in [1, 2, 31, 32, 33, 64].into_iter().enumerate() {
            labs[0].check(&mut *stream, &[(1, slots, 0), (1, 65 - slots, 0)]);
            let prepared = usize::from(i == 0);
            require_calls(&stand_in, [(OPERATOR, 1), (PREPARED, prepared)]);
        }
        // Nobody says how its tensors are counted: it serves the memory that it was prepared for, as before.
        for (lab, prepared) in [(1, 1), (0, 0), (1, 0)] {
            labs[lab].check(&mut *stream, &[(1, 3, 0), (1, 60, 0)]);
            require_calls(&stand_in, [(OPERATOR, 1), (PREPARED, prepared)]);
        }
        labs.reverse();
        drop((labs, stream, context));
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn a_captured_step_goes_by_the_lengths_of_its_replay() {
    let name = "a_captured_step_goes_by_the_lengths_of_its_replay";
    CANN.emulated(name, &[], &[], |stand_in| {
        let context = open();
        let mut stream = context.device().stream().unwrap();
        let op = spec(DType::BF16, Mask::Prefix, 16);
        let lab = Lab::new(&context, &mut *stream, &op, [2, 2]);
        lab.check(&mut *stream, &[(1, 9, 0), (1, 10, 10)]);
        stream.begin_capture().unwrap();
        lab.launch(&mut *stream);
        let graph = stream.end_capture().unwrap();
        for batch in [[(1, 1, 0), (1, 64, 3)], [(1, 48, 48), (1, 17, 0)]] {
            let want = lab.put(&mut *stream, &batch);
            stand_in.calls();
            graph.launch(&mut *stream).unwrap();
            lab.require(&mut *stream, &want);
            require_calls(&stand_in, [("aclmdlRIExecuteAsync", 1), (OPERATOR, 0)]);
        }
        drop((graph, lab, stream, context));
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

/// `op` composes, and probabilities keep their digits if `exact`.
fn composes(op: &Attention, exact: bool) {
    let context = open();
    assert_eq!(context.plan(op.clone()).unwrap().how(), How::Composed);
    assert_eq!(context.counts()[&("attention", "composed")], 1);
    let numerics = &context.device().info().numerics;
    assert_eq!(numerics.rounds_probabilities, !exact);
}

#[test]
fn what_the_operator_does_not_take_composes() {
    let name = "what_the_operator_does_not_take_composes";
    CANN.emulated(name, &[], &[], |stand_in| {
        let op = spec(DType::F16, Mask::Causal, 16);
        for other in [
            spec(DType::F32, Mask::Causal, 16),
            Attention {
                kv: DType::BF16,
                ..op.clone()
            },
            Attention {
                head_dim: 72,
                ..op.clone()
            },
            Attention {
                head_dim: 528,
                ..op.clone()
            },
            Attention {
                heads: 130,
                ..op.clone()
            },
            Attention {
                heads: 512,
                kv_heads: 512,
                ..op.clone()
            },
            Attention {
                heads: 256,
                kv_heads: 256,
                head_dim: 256,
                ..op.clone()
            },
        ] {
            composes(&other, false);
        }
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn without_the_operator_it_composes() {
    let name = "without_the_operator_it_composes";
    CANN.emulated(name, &[], &[OPERATOR], |stand_in| {
        composes(&spec(DType::F16, Mask::Causal, 16), true);
        let report =
            Suite::new(backend_ascend::open("ascend:0").unwrap()).run_small::<Attention>(48);
        println!("{report}");
        report.require_pass().unwrap();
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn chips_without_the_operator_compose() {
    let name = "chips_without_the_operator_compose";
    for chip in ["Ascend950DT", "Ascend310P3"] {
        CANN.emulated(name, &[("STAND_IN_SOC", chip)], &[], |_| {
            // Those of the first generation round probabilities before any product.
            let first = open().device().info().name == "Ascend310P3";
            composes(&spec(DType::F16, Mask::Causal, 16), !first);
        });
    }
}
