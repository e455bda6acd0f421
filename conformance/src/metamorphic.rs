//! Properties that right results have among themselves: no reference is computed, so they cost what the device costs.
//!
//! Where a property says *equal*, every arithmetic class must make it so (small integers, powers of two, copies);
//! otherwise results agree up to a few roundings of their type.

use std::collections::BTreeMap;
use std::fmt;

use hal::{DType, Result, WeightFormat};
use ops::reference::Tensor;
use ops::{
    Accelerator, Act, Activation, AddLayerNorm, AddRmsNorm, Argmax, Attention, BatchedMatmul,
    Binary, Cast, Elementwise, Embedding, Glu, Half, KvWrite, LayerNorm, Mask, Matmul, RmsNorm,
    Rope, RopeLayout, Sample, SampleControl, Softmax, StridedCopy, TopK,
};

use crate::lab::{Lab, integers, normal};
use crate::number::decode;
use crate::{Case, Layout, Operand, generate};

/// What became of one property.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It holds.
    Holds,
    /// It does not: where, and by how much.
    Broken(String),
    /// The device has no way to do the operation.
    Unsupported,
    /// The device reported this.
    Failed(String),
}

/// One property of one operation.
#[derive(Clone, Debug)]
pub struct Property {
    /// The operation.
    pub op: &'static str,
    /// What should hold.
    pub name: &'static str,
    /// Whether it does.
    pub verdict: Verdict,
}

impl Property {
    /// Whether it holds, or could not be asked.
    pub fn is_fine(&self) -> bool {
        matches!(self.verdict, Verdict::Holds | Verdict::Unsupported)
    }
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: ", self.op, self.name)?;
        match &self.verdict {
            Verdict::Holds => f.write_str("holds"),
            Verdict::Broken(why) => write!(f, "broken: {why}"),
            Verdict::Unsupported => f.write_str("unsupported"),
            Verdict::Failed(why) => write!(f, "failed: {why}"),
        }
    }
}

/// `Some(Ok)` when it holds, `None` when it could not be asked.
type Held = Result<Option<Result<(), String>>>;
type Test = fn(&Lab) -> Held;

/// Every property, tried on `accelerator`.
pub fn properties(accelerator: &Accelerator) -> Vec<Property> {
    properties_of(accelerator, |_| true)
}

/// The properties of operations that `keep` keeps.
pub fn properties_of(accelerator: &Accelerator, keep: impl Fn(&str) -> bool) -> Vec<Property> {
    let lab = Lab::new(accelerator);
    let ask = |&(op, name, test): &(&'static str, &'static str, Test)| Property {
        op,
        name,
        verdict: match test(&lab) {
            Ok(Some(Ok(()))) => Verdict::Holds,
            Ok(Some(Err(why))) => Verdict::Broken(why),
            Ok(None) => Verdict::Unsupported,
            Err(e) => Verdict::Failed(format!("{e:?}")),
        },
    };
    TESTS.iter().filter(|test| keep(test.0)).map(ask).collect()
}

/// What became of one property: `None` when the device could not be asked.
type Answer = (&'static str, Option<Result<(), String>>);

/// The properties of `op`, with the device's errors as errors.
pub(crate) fn ask(accelerator: &Accelerator, op: &str) -> Result<Vec<Answer>> {
    let lab = Lab::new(accelerator);
    let tests = TESTS.iter().filter(|test| test.0 == op);
    tests
        .map(|(_, name, test)| Ok((*name, test(&lab)?)))
        .collect()
}

/// The operations, and what should hold of each.
pub(crate) fn names() -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut names = BTreeMap::<_, Vec<_>>::new();
    for (op, name, _) in TESTS {
        names.entry(*op).or_default().push(*name);
    }
    names
}

const TESTS: &[(&str, &str, Test)] = &[
    (
        "matmul",
        "a product with the identity is the operand",
        identity,
    ),
    (
        "matmul",
        "rows in another order give rows in that order",
        row_order,
    ),
    (
        "matmul",
        "columns of two weights side by side",
        columns_side_by_side,
    ),
    ("matmul", "a power of two comes through", power_of_two),
    ("matmul", "two halves of k add up", halves_of_k),
    (
        "matmul",
        "quantising what was dequantised gives the same integers",
        quantised_again,
    ),
    (
        "matmul",
        "the epilogue is bias, then activation, then residual",
        epilogue,
    ),
    (
        "batched_matmul",
        "the transposed product has the factors swapped",
        transposed_product,
    ),
    (
        "batched_matmul",
        "each batch is a product of its own",
        batches_apart,
    ),
    ("softmax", "a shift changes nothing", softmax_shift),
    ("softmax", "rows sum to one", softmax_sum),
    (
        "softmax",
        "hidden columns are zero and do not count",
        softmax_hidden,
    ),
    (
        "attention",
        "over one key it is the value of the head's group",
        one_key,
    ),
    (
        "attention",
        "prefill of n + 1 is prefill of n and one step",
        causal_prefix,
    ),
    ("attention", "pages may lie anywhere", page_order),
    ("attention", "a batch is its sequences", sequences_apart),
    ("attention", "weights sum to one", attention_of_constants),
    ("kv_write", "two writes are one", two_writes),
    ("rope", "lengths stay", rope_lengths),
    ("rope", "scores depend on distance alone", rope_distance),
    ("rope", "turning back gives the operand", rope_back),
    (
        "rms_norm",
        "rows have mean square one, whatever their scale",
        rms_scale,
    ),
    (
        "layer_norm",
        "rows have mean zero and variance one, whatever their shift",
        layer_moments,
    ),
    (
        "add_rms_norm",
        "the sum is symmetric, the norm that of the sum",
        add_rms,
    ),
    (
        "add_layer_norm",
        "the sum is symmetric, the norm that of the sum",
        add_layer,
    ),
    ("activation", "f(x) − f(−x) = x", odd_part),
    ("glu", "it is activation and product", glu_parts),
    ("elementwise", "a + b = b + a, a − a = 0", sums),
    ("copy", "through any layout it is the identity", copies),
    ("copy", "parts put together are the whole", concat),
    (
        "cast",
        "to a wider type and back is the identity, for every number",
        casts,
    ),
    ("argmax", "a row turned turns the index", argmax_turn),
    (
        "top_k",
        "values descend and lie at their indices",
        top_k_order,
    ),
    (
        "embedding",
        "ids in another order give rows in that order",
        id_order,
    ),
    ("sample", "a row draws the same in any batch", draws_alone),
    ("sample", "temperature zero is argmax", greedy),
];

/// Requires equal bits.
fn equal(got: &[f64], want: &[f64]) -> Result<(), String> {
    close(got, want, 0.0)
}

/// Requires agreement up to `tolerance` times the largest magnitude.
fn close(got: &[f64], want: &[f64], tolerance: f64) -> Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{} elements, not {}", got.len(), want.len()));
    }
    let scale = want.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    for (i, (&a, &b)) in got.iter().zip(want).enumerate() {
        let same = match tolerance {
            0.0 => {
                a.to_bits() == b.to_bits() || (a == 0.0 && b == 0.0) || (a.is_nan() && b.is_nan())
            }
            _ => (a - b).abs() <= tolerance * scale,
        };
        if !same {
            return Err(format!("element {i} is {a:e}, expected {b:e}"));
        }
    }
    Ok(())
}

/// The first output, or "could not be asked".
macro_rules! first {
    ($outputs:expr) => {
        match $outputs? {
            Some(mut outputs) => outputs.swap_remove(0),
            None => return Ok(None),
        }
    };
}

/// Stops at the first thing that does not hold.
macro_rules! require {
    ($held:expr) => {
        if let Err(why) = $held {
            return Ok(Some(Err(why)));
        }
    };
}

const HOLDS: Held = Ok(Some(Ok(())));
const F32: WeightFormat = WeightFormat::Dense(DType::F32);

fn vector(values: &[f64]) -> Tensor {
    Tensor::new(&[values.len()], values.to_vec())
}

/// `m` rows of `tensor` from row `start`.
fn rows(tensor: &Tensor, start: usize, m: usize) -> Tensor {
    let per = tensor.data.len() / tensor.shape[0].max(1);
    let mut shape = tensor.shape.clone();
    shape[0] = m;
    Tensor::new(&shape, tensor.data[start * per..(start + m) * per].to_vec())
}

/// Rows of the first dimension in this order.
fn reordered(tensor: &Tensor, order: &[usize]) -> Tensor {
    let picked = order.iter().flat_map(|&r| rows(tensor, r, 1).data);
    let mut shape = tensor.shape.clone();
    shape[0] = order.len();
    Tensor::new(&shape, picked.collect())
}

/// One tensor after the other along the first dimension.
fn joined(a: &Tensor, b: &Tensor) -> Tensor {
    let mut shape = a.shape.clone();
    shape[0] += b.shape[0];
    Tensor::new(&shape, [&a.data[..], &b.data].concat())
}

fn backwards(n: usize) -> Vec<usize> {
    (0..n).rev().collect()
}

fn product(lab: &Lab, x: &Tensor, w: &Tensor) -> Result<Option<Vec<Tensor>>> {
    let [m, k] = x.shape[..] else {
        unreachable!("a matrix")
    };
    let op = Matmul::new(w.shape[0], k, DType::F32, F32);
    lab.run(op, &[&[m, w.shape[0]]], &[x.clone(), w.clone()])
}

fn identity(lab: &Lab) -> Held {
    for dtype in lab.floats() {
        let (m, k) = (5, 65);
        let op = Matmul::new(k, k, dtype, WeightFormat::Dense(dtype));
        let x = lab
            .normal(&[m, k], "identity")
            .map(|x| crate::number::round(dtype, x));
        let one = |i: usize| f64::from(u8::from(i / k == i % k));
        let w = Tensor::new(&[k, k], (0..k * k).map(one).collect());
        let y = first!(lab.run(op, &[&[m, k]], &[x.clone(), w]));
        require!(equal(&y.data, &x.data));
    }
    HOLDS
}

fn row_order(lab: &Lab) -> Held {
    let (x, w) = (lab.integers(&[37, 129], "x"), lab.integers(&[33, 129], "w"));
    let y = first!(product(lab, &x, &w));
    let turned = first!(product(lab, &reordered(&x, &backwards(37)), &w));
    Ok(Some(equal(
        &turned.data,
        &reordered(&y, &backwards(37)).data,
    )))
}

fn columns_side_by_side(lab: &Lab) -> Held {
    let x = lab.integers(&[3, 257], "x");
    let (a, b) = (lab.integers(&[65, 257], "a"), lab.integers(&[31, 257], "b"));
    let both = first!(product(lab, &x, &joined(&a, &b)));
    let (ya, yb) = (first!(product(lab, &x, &a)), first!(product(lab, &x, &b)));
    let side = |r: usize| [ya.row(r), yb.row(r)].concat();
    Ok(Some(equal(
        &both.data,
        &(0..3).flat_map(side).collect::<Vec<_>>(),
    )))
}

fn power_of_two(lab: &Lab) -> Held {
    // A narrow sum has neither the reach nor the subnormals for it, but for small integers.
    let (x, w, factor) = match lab.sums_narrowly() {
        true => (
            lab.integers(&[3, 1025], "x"),
            lab.integers(&[17, 1025], "w"),
            8.0,
        ),
        false => (normal(&[3, 1025], "x"), normal(&[17, 1025], "w"), 1024.0),
    };
    let y = first!(product(lab, &x, &w));
    let scaled = first!(product(lab, &x.map(|x| factor * x), &w));
    Ok(Some(equal(&scaled.data, &y.map(|y| factor * y).data)))
}

fn halves_of_k(lab: &Lab) -> Held {
    let (x, w) = (lab.integers(&[4, 2100], "x"), lab.integers(&[9, 2100], "w"));
    let half = |t: &Tensor, start: usize| {
        let part = (0..t.rows()).flat_map(|r| t.row(r)[start..start + 1050].to_vec());
        Tensor::new(&[t.rows(), 1050], part.collect())
    };
    let whole = first!(product(lab, &x, &w));
    let mut sum = first!(product(lab, &half(&x, 0), &half(&w, 0)));
    let second = first!(product(lab, &half(&x, 1050), &half(&w, 1050)));
    sum.data
        .iter_mut()
        .zip(&second.data)
        .for_each(|(a, b)| *a += b);
    Ok(Some(equal(&whole.data, &sum.data)))
}

fn quantised_again(lab: &Lab) -> Held {
    for format in [
        WeightFormat::Int8Row,
        WeightFormat::Int8Group(32),
        WeightFormat::Int4Row,
        WeightFormat::Int4Group(32),
    ] {
        let (n, k) = (24, 64);
        let values = normal(&[n, k], "quantised");
        let weight = generate::weight(format, [n, k], &values.data)?;
        // Rows of the identity bring out the columns of the dequantised weight.
        let one = |i: usize| f64::from(u8::from(i / k == i % k));
        let x = Tensor::new(&[k, k], (0..k * k).map(one).collect());
        let op = Matmul::new(n, k, DType::F32, format);
        let y = first!(lab.run(op, &[&[k, n]], &[x, values]));
        let turned: Vec<f64> = (0..n * k).map(|i| y.data[i % k * n + i / k]).collect();
        require!(close(
            &turned,
            &weight.dequantise().data,
            lab.tolerance(1e-7)
        ));
        // The integers come back from numbers that are nearly those, not from fewer bits.
        if lab.keeps_less() {
            continue;
        }
        let again = generate::weight(format, [n, k], &turned)?;
        if again.data != weight.data {
            return Ok(Some(Err(format!("the integers of {format} differ"))));
        }
    }
    HOLDS
}

fn epilogue(lab: &Lab) -> Held {
    let (m, n, k) = (5, 40, 33);
    let (x, w) = (
        integers(&[m, k], "x"),
        integers(&[n, k], "w").map(|w| w / 64.0),
    );
    let (bias, residual) = (integers(&[n], "bias"), integers(&[m, n], "residual"));
    let op = Matmul {
        bias: true,
        activation: Some(Act::Silu),
        residual: true,
        ..Matmul::new(n, k, DType::F32, F32)
    };
    let inputs = [x.clone(), w.clone(), bias.clone(), residual.clone()];
    let fused = first!(lab.run(op, &[&[m, n]], &inputs));
    let mut z = first!(product(lab, &x, &w));
    for (i, z) in z.data.iter_mut().enumerate() {
        *z += bias.data[i % n];
    }
    let act = Activation {
        act: Act::Silu,
        dtype: DType::F32,
    };
    let mut y = first!(lab.run(act, &[&[m, n]], &[z]));
    y.data
        .iter_mut()
        .zip(&residual.data)
        .for_each(|(y, r)| *y += r);
    Ok(Some(close(&fused.data, &y.data, lab.tolerance(1e-5))))
}

fn batched(lab: &Lab, a: &Tensor, b: &Tensor) -> Result<Option<Vec<Tensor>>> {
    let op = BatchedMatmul {
        a: DType::F32,
        b: DType::F32,
        out: DType::F32,
        alpha: 0.5,
    };
    let out = [a.shape[0], a.shape[1], a.shape[2], b.shape[2]];
    lab.run(op, &[&out], &[a.clone(), b.clone()])
}

fn transposed_product(lab: &Lab) -> Held {
    let (a, b) = (
        lab.integers(&[1, 1, 9, 65], "a"),
        lab.integers(&[1, 1, 17, 65], "b"),
    );
    let ab = first!(batched(lab, &a, &b));
    let ba = first!(batched(lab, &b, &a));
    let turned: Vec<f64> = (0..9 * 17).map(|i| ba.data[i % 17 * 9 + i / 17]).collect();
    Ok(Some(equal(&ab.data, &turned)))
}

fn batches_apart(lab: &Lab) -> Held {
    let (a, b) = (
        lab.integers(&[2, 3, 4, 33], "a"),
        lab.integers(&[2, 3, 5, 33], "b"),
    );
    let all = first!(batched(lab, &a, &b));
    for i in 0..6 {
        let one = |t: &Tensor, m: usize| {
            Tensor::new(
                &[1, 1, m, 33],
                t.data[i * m * 33..(i + 1) * m * 33].to_vec(),
            )
        };
        let alone = first!(batched(lab, &one(&a, 4), &one(&b, 5)));
        require!(equal(&all.data[i * 20..(i + 1) * 20], &alone.data));
    }
    HOLDS
}

fn softmax_of(lab: &Lab, x: &Tensor) -> Result<Option<Vec<Tensor>>> {
    let op = Softmax {
        dtype: DType::F32,
        scale: 1.0,
        mask: None,
    };
    lab.run(op, &[&x.shape], std::slice::from_ref(x))
}

fn softmax_shift(lab: &Lab) -> Held {
    // On a grid on which the shift is exact, and −∞ among it.
    let mut x = normal(&[1, 7, 300], "shift").map(|x| (x * 512.0).round() / 64.0);
    x.data[5] = f64::NEG_INFINITY;
    let y = first!(softmax_of(lab, &x));
    for shift in [64.0, -256.0] {
        let shifted = first!(softmax_of(lab, &x.map(|x| x + shift)));
        require!(equal(&shifted.data, &y.data));
    }
    HOLDS
}

fn softmax_sum(lab: &Lab) -> Held {
    let y = first!(softmax_of(
        lab,
        &normal(&[2, 5, 1000], "sum").map(|x| 10.0 * x)
    ));
    let sums: Vec<f64> = (0..10).map(|r| y.row(r).iter().sum()).collect();
    Ok(Some(close(&sums, &[1.0; 10], 1e-5)))
}

fn softmax_hidden(lab: &Lab) -> Held {
    let (rows, cols) = (6, 40);
    let x = normal(&[1, rows, cols], "hidden");
    for (mask, prefix) in [(Mask::Causal, 0), (Mask::Prefix, 20), (Mask::Full, 0)] {
        let op = Softmax {
            dtype: DType::F32,
            scale: 0.5,
            mask: Some(mask),
        };
        // Rows 1 to 4 are the last four tokens of a sequence of 16.
        let mut inputs = vec![x.clone(), vector(&[1.0, 5.0]), vector(&[16.0])];
        if mask == Mask::Prefix {
            inputs.push(vector(&[f64::from(prefix)]));
        }
        let y = first!(lab.run(op, &[&x.shape], &inputs));
        for r in 0..rows {
            let seen = match (r, mask) {
                (0 | 5, _) => 0,
                (r, Mask::Causal) => 12 + r,
                _ => 16,
            };
            let plain: Vec<f64> = x.row(r)[..seen].iter().map(|x| x / 2.0).collect();
            require!(equal(&y.row(r)[seen..], &vec![0.0; cols - seen]));
            if seen > 0 {
                let plain = Tensor::new(&[1, 1, seen], plain);
                let alone = first!(softmax_of(lab, &plain));
                require!(close(&y.row(r)[..seen], &alone.data, 1e-6));
            }
        }
    }
    HOLDS
}

/// Four query heads on two key-value heads of 64, pages of 16.
struct Cache {
    k: Tensor,
    v: Tensor,
}

const PAGES: usize = 6;

impl Cache {
    fn new() -> Self {
        let shape = [PAGES, 2, 16, 64];
        Self {
            k: normal(&shape, "keys"),
            v: normal(&shape, "values"),
        }
    }

    /// Attention of sequences (new tokens, slots, pages) of one batch.
    fn attend(
        &self,
        lab: &Lab,
        mask: Mask,
        q: &Tensor,
        sequences: &[(usize, usize, [usize; 2])],
    ) -> Result<Option<Vec<Tensor>>> {
        let op = Attention {
            heads: 4,
            kv_heads: 2,
            head_dim: 64,
            pages: PAGES,
            page_size: 16,
            scale: 0.125,
            mask,
            dtype: DType::F32,
            kv: DType::F32,
        };
        let mut starts = vec![0.0];
        for &(new, _, _) in sequences {
            starts.push(starts[starts.len() - 1] + new as f64);
        }
        let pages: Vec<f64> = sequences
            .iter()
            .flat_map(|s| s.2.map(|p| p as f64))
            .collect();
        let slots: Vec<f64> = sequences.iter().map(|s| s.1 as f64).collect();
        let inputs = [
            q.clone(),
            self.k.clone(),
            self.v.clone(),
            Tensor::new(&[sequences.len(), 2], pages),
            vector(&starts),
            vector(&slots),
        ];
        lab.run(op, &[&q.shape], &inputs)
    }

    /// The value of head `g` in slot `slot` of page `page`.
    fn value(&self, page: usize, g: usize, slot: usize) -> &[f64] {
        self.v.row((page * 2 + g) * 16 + slot)
    }
}

fn one_key(lab: &Lab) -> Held {
    let cache = Cache::new();
    let q = normal(&[1, 4, 64], "one key");
    let y = first!(cache.attend(lab, Mask::Causal, &q, &[(1, 1, [3, 0])]));
    for h in 0..4 {
        require!(close(y.row(h), cache.value(3, h / 2, 0), lab.loss()));
    }
    HOLDS
}

fn causal_prefix(lab: &Lab) -> Held {
    let (cache, pages) = (Cache::new(), [4, 1]);
    let n = 20;
    let q = normal(&[n + 1, 4, 64], "prefix");
    let long = first!(cache.attend(lab, Mask::Causal, &q, &[(n + 1, n + 1, pages)]));
    let short = first!(cache.attend(lab, Mask::Causal, &rows(&q, 0, n), &[(n, n, pages)]));
    let step = first!(cache.attend(lab, Mask::Causal, &rows(&q, n, 1), &[(1, n + 1, pages)]));
    require!(close(
        &rows(&long, 0, n).data,
        &short.data,
        lab.tolerance(1e-5)
    ));
    Ok(Some(close(
        &rows(&long, n, 1).data,
        &step.data,
        lab.tolerance(1e-5),
    )))
}

fn page_order(lab: &Lab) -> Held {
    let cache = Cache::new();
    let order = [3, 5, 0, 1, 4, 2];
    let moved = Cache {
        k: reordered(&cache.k, &order),
        v: reordered(&cache.v, &order),
    };
    let at = |page: usize| {
        order
            .iter()
            .position(|&p| p == page)
            .expect("a permutation")
    };
    let q = normal(&[3, 4, 64], "pages");
    for mask in [Mask::Causal, Mask::Full] {
        let y = first!(cache.attend(lab, mask, &q, &[(3, 29, [4, 1])]));
        let z = first!(moved.attend(lab, mask, &q, &[(3, 29, [at(4), at(1)])]));
        require!(equal(&y.data, &z.data));
    }
    HOLDS
}

fn sequences_apart(lab: &Lab) -> Held {
    let cache = Cache::new();
    let sequences = [(3, 19, [0, 5]), (1, 32, [2, 3]), (4, 4, [1, 0])];
    // One token more than the sequences have.
    let q = normal(&[9, 4, 64], "batch");
    let all = first!(cache.attend(lab, Mask::Causal, &q, &sequences));
    let mut start = 0;
    for sequence in sequences {
        let own = rows(&q, start, sequence.0);
        let alone = first!(cache.attend(lab, Mask::Causal, &own, &[sequence]));
        require!(close(
            &rows(&all, start, sequence.0).data,
            &alone.data,
            lab.tolerance(1e-5)
        ));
        start += sequence.0;
    }
    Ok(Some(equal(&rows(&all, 8, 1).data, &[0.0; 256])))
}

fn attention_of_constants(lab: &Lab) -> Held {
    let mut cache = Cache::new();
    cache.v = cache.v.map(|_| 0.75);
    let q = normal(&[5, 4, 64], "constants").map(|x| 5.0 * x);
    let y = first!(cache.attend(lab, Mask::Causal, &q, &[(5, 31, [5, 2])]));
    Ok(Some(close(&y.data, &[0.75; 5 * 256], lab.tolerance(1e-5))))
}

fn two_writes(lab: &Lab) -> Held {
    let op = |_: usize| KvWrite {
        kv_heads: 2,
        head_dim: 8,
        pages: 3,
        page_size: 4,
        dtype: DType::F32,
        kv: DType::F16,
    };
    let cache = [3, 2, 4, 8];
    let empty = Tensor::zeros(&cache);
    let (k, v) = (normal(&[6, 2, 8], "k"), normal(&[6, 2, 8], "v"));
    let slots = vector(&[0.0, 7.0, -1.0, 11.0, 4.0, 2.0]);
    let inputs = [empty.clone(), empty, k.clone(), v.clone(), slots.clone()];
    let Some(once) = lab.run(op(6), &[], &inputs)? else {
        return Ok(None);
    };
    let mut caches = vec![inputs[0].clone(), inputs[1].clone()];
    for half in [0, 3] {
        let part = [rows(&k, half, 3), rows(&v, half, 3), rows(&slots, half, 3)];
        let inputs: Vec<Tensor> = caches.into_iter().chain(part).collect();
        let Some(next) = lab.run(op(3), &[], &inputs)? else {
            return Ok(None);
        };
        caches = next;
    }
    for (a, b) in once.iter().zip(&caches) {
        require!(equal(&a.data, &b.data));
    }
    // Each token is where its slot says, and nothing else is anywhere.
    for (x, cache) in [(&k, &once[0]), (&v, &once[1])] {
        let mut want = Tensor::zeros(&[3, 2, 4, 8]);
        for (t, &slot) in slots
            .data
            .iter()
            .enumerate()
            .filter(|(_, slot)| **slot >= 0.0)
        {
            let (page, at) = (slot as usize / 4, slot as usize % 4);
            for h in 0..2 {
                let halves = x
                    .row(t * 2 + h)
                    .iter()
                    .map(|&x| crate::number::round(DType::F16, x));
                want.row_mut((page * 2 + h) * 4 + at)
                    .copy_from_slice(&halves.collect::<Vec<_>>());
            }
        }
        require!(equal(&cache.data, &want.data));
    }
    HOLDS
}

/// `tokens` of two heads of 16, of which `rotary_dim` are rotated; angles are `position · 0.9^i`.
fn rotated(
    lab: &Lab,
    layout: RopeLayout,
    x: &Tensor,
    positions: &[f64],
    direction: f64,
) -> Result<Option<Vec<Tensor>>> {
    let op = Rope {
        head_dim: 16,
        rotary_dim: 12,
        streams: 1,
        layout,
        dtype: DType::F32,
    };
    let angle = |i: usize| (i / 6) as f64 * 0.9f64.powi((i % 6) as i32);
    let table = |f: fn(f64) -> f64, sign: f64| {
        Tensor::new(&[100, 6], (0..600).map(|i| sign * f(angle(i))).collect())
    };
    let inputs = [
        x.clone(),
        Tensor::new(&[1, positions.len()], positions.to_vec()),
        table(f64::cos, 1.0),
        table(f64::sin, direction),
    ];
    lab.run(op, &[&x.shape], &inputs)
}

const LAYOUTS: [RopeLayout; 2] = [RopeLayout::Interleaved, RopeLayout::HalfSplit];

fn rope_lengths(lab: &Lab) -> Held {
    let x = normal(&[4, 2, 16], "lengths");
    for layout in LAYOUTS {
        let y = first!(rotated(lab, layout, &x, &[0.0, 1.0, 50.0, 99.0], 1.0));
        for r in 0..8 {
            for i in 0..6 {
                let (a, b) = match layout {
                    RopeLayout::Interleaved => (2 * i, 2 * i + 1),
                    RopeLayout::HalfSplit => (i, i + 6),
                };
                let length = |t: &Tensor| t.row(r)[a].hypot(t.row(r)[b]);
                require!(close(&[length(&y)], &[length(&x)], 1e-5));
            }
            require!(equal(
                &y.row(r)[12..],
                &x.map(|x| f64::from(x as f32)).row(r)[12..]
            ));
        }
        // Position 0 turns nothing.
        require!(close(&y.data[..32], &x.data[..32], 1e-6));
    }
    HOLDS
}

fn rope_distance(lab: &Lab) -> Held {
    let x = normal(&[2, 2, 16], "distance");
    for layout in LAYOUTS {
        let mut scores = Vec::new();
        for start in [0.0, 13.0, 70.0] {
            let y = first!(rotated(lab, layout, &x, &[start, start + 17.0], 1.0));
            for h in 0..2 {
                scores.push(ops::reference::dot(y.row(h), y.row(2 + h)));
            }
        }
        require!(close(&scores[2..4], &scores[..2], 1e-4));
        require!(close(&scores[4..], &scores[..2], 1e-4));
    }
    HOLDS
}

fn rope_back(lab: &Lab) -> Held {
    let x = normal(&[5, 2, 16], "back");
    let positions = [3.0, 0.0, 99.0, 41.0, 7.0];
    for layout in LAYOUTS {
        let y = first!(rotated(lab, layout, &x, &positions, 1.0));
        let back = first!(rotated(lab, layout, &y, &positions, -1.0));
        require!(close(&back.data, &x.data, 1e-6));
    }
    HOLDS
}

fn rms_scale(lab: &Lab) -> Held {
    let (m, dim) = (3, 1025);
    let x = normal(&[m, dim], "rms");
    let ones = Tensor::new(&[dim], vec![1.0; dim]);
    let op = |eps| RmsNorm {
        dim,
        dtype: DType::F32,
        eps,
    };
    let norm = |x: &Tensor, eps| lab.run(op(eps), &[&[m, dim]], &[x.clone(), ones.clone()]);
    let y = first!(norm(&x, 1e-12));
    let mean_square = |r: usize| y.row(r).iter().map(|y| y * y).sum::<f64>() / dim as f64;
    require!(close(
        &(0..m).map(mean_square).collect::<Vec<_>>(),
        &[1.0; 3],
        1e-5
    ));
    let large = first!(norm(&x.map(|x| 4096.0 * x), 1e-12));
    require!(close(&large.data, &y.data, 1e-5));
    // eps is added to the mean square: at 3 times it the result is half.
    let level = Tensor::new(&[m, dim], vec![1.0; m * dim]);
    let half = first!(norm(&level, 3.0));
    require!(close(&half.data, &vec![0.5; m * dim], 1e-6));
    let weight = normal(&[dim], "weight");
    let weighted = first!(lab.run(op(1e-12), &[&[m, dim]], &[x.clone(), weight.clone()]));
    let want: Vec<f64> = y
        .data
        .iter()
        .enumerate()
        .map(|(i, y)| y * weight.data[i % dim])
        .collect();
    Ok(Some(close(&weighted.data, &want, 1e-6)))
}

fn layer_moments(lab: &Lab) -> Held {
    let (m, dim) = (3, 513);
    let x = normal(&[m, dim], "layer");
    let constant = |value: f64| Tensor::new(&[dim], vec![value; dim]);
    let op = LayerNorm {
        dim,
        dtype: DType::F32,
        eps: 1e-12,
    };
    let norm = |x: &Tensor, weight: f64, bias: f64| {
        let inputs = [x.clone(), constant(weight), constant(bias)];
        lab.run(op.clone(), &[&[m, dim]], &inputs)
    };
    let y = first!(norm(&x, 1.0, 0.0));
    for r in 0..m {
        let mean = y.row(r).iter().sum::<f64>() / dim as f64;
        let square = y.row(r).iter().map(|y| y * y).sum::<f64>() / dim as f64;
        require!(close(&[1.0 + mean, square], &[1.0, 1.0], 1e-5));
    }
    let shifted = first!(norm(&x.map(|x| x + 16.0), 1.0, 0.0));
    require!(close(&shifted.data, &y.data, 1e-4));
    let moved = first!(norm(&x, 2.0, 3.0));
    Ok(Some(close(
        &moved.data,
        &y.map(|y| 2.0 * y + 3.0).data,
        1e-5,
    )))
}

fn add_rms(lab: &Lab) -> Held {
    let (m, dim) = (3, 257);
    let (x, r) = (normal(&[m, dim], "x"), normal(&[m, dim], "r"));
    let weight = normal(&[dim], "weight");
    let op = |alpha| AddRmsNorm {
        dim,
        dtype: DType::F32,
        eps: 1e-5,
        alpha,
    };
    let shape: &[usize] = &[m, dim];
    let run = |alpha, a: &Tensor, b: &Tensor| {
        lab.run(
            op(alpha),
            &[shape; 2],
            &[a.clone(), b.clone(), weight.clone()],
        )
    };
    let (Some(a), Some(b)) = (run(1.0, &x, &r)?, run(1.0, &r, &x)?) else {
        return Ok(None);
    };
    let norm = RmsNorm {
        dim,
        dtype: DType::F32,
        eps: 1e-5,
    };
    let alone = first!(lab.run(norm, &[shape], &[a[1].clone(), weight.clone()]));
    let Some(scaled) = run(4.0, &x, &r)? else {
        return Ok(None);
    };
    sum_of_two(&a, &b, &alone, &x, &r, &scaled)
}

fn add_layer(lab: &Lab) -> Held {
    let (m, dim) = (3, 257);
    let (x, r) = (normal(&[m, dim], "x"), normal(&[m, dim], "r"));
    let (weight, bias) = (normal(&[dim], "weight"), normal(&[dim], "bias"));
    let op = |alpha| AddLayerNorm {
        dim,
        dtype: DType::F32,
        eps: 1e-5,
        alpha,
    };
    let shape: &[usize] = &[m, dim];
    let run = |alpha, a: &Tensor, b: &Tensor| {
        let inputs = [a.clone(), b.clone(), weight.clone(), bias.clone()];
        lab.run(op(alpha), &[shape; 2], &inputs)
    };
    let (Some(a), Some(b)) = (run(1.0, &x, &r)?, run(1.0, &r, &x)?) else {
        return Ok(None);
    };
    let norm = LayerNorm {
        dim,
        dtype: DType::F32,
        eps: 1e-5,
    };
    let inputs = [a[1].clone(), weight.clone(), bias.clone()];
    let alone = first!(lab.run(norm, &[shape], &inputs));
    let Some(scaled) = run(4.0, &x, &r)? else {
        return Ok(None);
    };
    sum_of_two(&a, &b, &alone, &x, &r, &scaled)
}

/// Norm and sum of x and r, of r and x; the norm of that sum alone; norm and sum of x and 4 r.
fn sum_of_two(
    a: &[Tensor],
    b: &[Tensor],
    alone: &Tensor,
    x: &Tensor,
    r: &Tensor,
    scaled: &[Tensor],
) -> Held {
    require!(equal(&a[0].data, &b[0].data));
    require!(equal(&a[1].data, &b[1].data));
    require!(close(&a[0].data, &alone.data, 1e-5));
    let sum = |alpha: f64| -> Vec<f64> {
        x.data
            .iter()
            .zip(&r.data)
            .map(|(x, r)| x + alpha * r)
            .collect()
    };
    require!(close(&a[1].data, &sum(1.0), 1e-6));
    Ok(Some(close(&scaled[1].data, &sum(4.0), 1e-6)))
}

fn odd_part(lab: &Lab) -> Held {
    let x = normal(&[2, 500], "odd").map(|x| 4.0 * x);
    for act in Act::ALL {
        let op = Activation {
            act,
            dtype: DType::F32,
        };
        let plus = first!(lab.run(op.clone(), &[&x.shape], std::slice::from_ref(&x)));
        let minus = first!(lab.run(op, &[&x.shape], &[x.map(|x| -x)]));
        let odd: Vec<f64> = plus
            .data
            .iter()
            .zip(&minus.data)
            .map(|(a, b)| a - b)
            .collect();
        require!(close(&odd, &x.data, 1e-5));
        // Between 0 and x, and not x itself near 1.
        let at_one = first!(lab_activation(lab, act, 1.0));
        let ok = (0.7..0.86).contains(&at_one.data[0]);
        require!(
            ok.then_some(())
                .ok_or(format!("{act:?}(1) is {}", at_one.data[0]))
        );
    }
    HOLDS
}

fn lab_activation(lab: &Lab, act: Act, x: f64) -> Result<Option<Vec<Tensor>>> {
    let op = Activation {
        act,
        dtype: DType::F32,
    };
    lab.run(op, &[&[1, 1]], &[Tensor::new(&[1, 1], vec![x])])
}

fn glu_parts(lab: &Lab) -> Held {
    let (m, dim) = (3, 130);
    let x = normal(&[m, 2 * dim], "glu").map(|x| 2.0 * x);
    for (gate, limit) in [
        (Half::First, None),
        (Half::Second, None),
        (Half::First, Some(1.5f32)),
    ] {
        let op = Glu {
            dim,
            act: Act::Silu,
            gate,
            limit,
            dtype: DType::F32,
        };
        let halves = op.halves();
        // A device that composes it has no limit.
        let y = match lab.run(op, &[&[m, dim]], std::slice::from_ref(&x))? {
            Some(mut outputs) => outputs.swap_remove(0),
            None if limit.is_some() => continue,
            None => return Ok(None),
        };
        let half = |i: usize| {
            let part = (0..m).flat_map(|r| x.row(r)[halves[i].clone()].to_vec());
            Tensor::new(&[m, dim], part.collect())
        };
        let l = f64::from(limit.unwrap_or(f32::MAX));
        let act = Activation {
            act: Act::Silu,
            dtype: DType::F32,
        };
        let g = first!(lab.run(act, &[&[m, dim]], &[half(0).map(|g| g.min(l))]));
        let u = half(1).map(|u| u.clamp(-l, l));
        let want: Vec<f64> = g.data.iter().zip(&u.data).map(|(g, u)| g * u).collect();
        require!(close(&y.data, &want, 1e-6));
    }
    HOLDS
}

fn sums(lab: &Lab) -> Held {
    let (a, b) = (normal(&[3, 77], "a"), normal(&[3, 77], "b"));
    let run = |kind, alpha, a: &Tensor, b: &Tensor| {
        let op = Elementwise {
            kind,
            dtype: DType::F32,
            alpha,
        };
        lab.run(op, &[&[3, 77]], &[a.clone(), b.clone()])
    };
    let (ab, ba) = (
        first!(run(Binary::Add, 1.0, &a, &b)),
        first!(run(Binary::Add, 1.0, &b, &a)),
    );
    require!(equal(&ab.data, &ba.data));
    let zero = first!(run(Binary::Sub, 1.0, &a, &a));
    require!(equal(&zero.data, &[0.0; 231]));
    // a + 4·b twice over: by alpha, and by a larger b.
    let by_alpha = first!(run(Binary::Add, 4.0, &a, &b));
    let by_b = first!(run(Binary::Add, 1.0, &a, &b.map(|b| 4.0 * b)));
    require!(equal(&by_alpha.data, &by_b.data));
    let ones = a.map(|_| 1.0);
    let doubled = first!(run(Binary::Mul, 2.0, &a, &ones));
    let sum = first!(run(Binary::Add, 1.0, &a, &a));
    require!(equal(&doubled.data, &sum.data));
    let difference = first!(run(Binary::Sub, 0.5, &a, &b));
    let negative = first!(run(Binary::Add, -0.5, &a, &b));
    Ok(Some(equal(&difference.data, &negative.data)))
}

fn copies(lab: &Lab) -> Held {
    let x = normal(&[3, 5, 17], "copy").map(|x| f64::from(x as f32));
    let layouts = [
        Layout::Contiguous,
        Layout::Offset(1),
        Layout::Padded(3),
        Layout::Spread,
        Layout::Transposed,
    ];
    for from in layouts {
        for to in layouts {
            let case = Case::new(
                StridedCopy { dtype: DType::F32 },
                vec![
                    Operand::out(&x.shape).layout(to),
                    Operand::values(&x.shape, x.data.clone()).layout(from),
                ],
            );
            let y = match lab.suite.outputs(&case) {
                Err(e) if e.kind() == hal::ErrorKind::Unsupported => return Ok(None),
                outputs => outputs?.swap_remove(0),
            };
            require!(equal(&y.data, &x.data));
        }
    }
    HOLDS
}

/// The halves of rows are copied out, then into the halves of wider rows.
fn concat(lab: &Lab) -> Held {
    let device = lab.suite.device();
    let x: Vec<f32> = (0..6 * 34).map(|i| i as f32).collect();
    let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
    let plan = match lab.suite.context().plan(StridedCopy { dtype: DType::F32 }) {
        Err(e) if e.kind() == hal::ErrorKind::Unsupported => return Ok(None),
        plan => plan?,
    };
    let mut stream = device.stream()?;
    let buffers = [bytes.len(), bytes.len() / 2, bytes.len() / 2, bytes.len()];
    let buffers = buffers.map(|bytes| device.alloc(bytes));
    let [whole, left, right, again] = buffers;
    let (whole, left, right, again) = (whole?, left?, right?, again?);
    let matrix = |buffer, cols| hal::View::new(buffer, DType::F32, &[6, cols]);
    stream.upload(&matrix(&whole, 34)?, &bytes)?;
    let workspace = device.alloc(plan.workspace_bytes(&[&[6, 17], &[6, 17]]).max(1))?;
    let workspace = hal::View::of_bytes(&workspace);
    for (part, columns) in [(&left, 0..17), (&right, 17..34)] {
        let part = matrix(part, 17)?;
        let from = matrix(&whole, 34)?.slice(1, columns.clone())?;
        plan.run(
            &mut *stream,
            ops::CopyArgs { out: part, x: from },
            &workspace,
        )?;
        let to = matrix(&again, 34)?.slice(1, columns)?;
        plan.run(&mut *stream, ops::CopyArgs { out: to, x: part }, &workspace)?;
    }
    let mut out = vec![0; bytes.len()];
    stream.download(&mut out, &matrix(&again, 34)?)?;
    let numbers: Vec<f64> = out.chunks(4).map(|b| decode(DType::F32, b)).collect();
    let want: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
    Ok(Some(equal(&numbers, &want)))
}

fn casts(lab: &Lab) -> Held {
    for narrow in [DType::F16, DType::BF16] {
        let every = (0..=u16::MAX).map(|bits| decode(narrow, &bits.to_le_bytes()));
        let every: Vec<f64> = every.filter(|x| !x.is_nan()).collect();
        let shape = [every.len()];
        let to = |from, to, x: Vec<f64>| {
            lab.run(Cast { from, to }, &[&shape], &[Tensor::new(&shape, x)])
        };
        let wide = first!(to(narrow, DType::F32, every.clone()));
        require!(equal(&wide.data, &every));
        let back = first!(to(DType::F32, narrow, wide.data));
        let signs = |x: &[f64]| -> Vec<u64> { x.iter().map(|x| x.to_bits()).collect() };
        if signs(&back.data) != signs(&every) {
            return Ok(Some(Err(format!("{narrow} is not the same after f32"))));
        }
    }
    HOLDS
}

fn largest(lab: &Lab, x: &Tensor) -> Result<Option<Vec<Tensor>>> {
    let op = Argmax { dtype: DType::F32 };
    lab.run(op, &[&[x.shape[0]]], std::slice::from_ref(x))
}

fn argmax_turn(lab: &Lab) -> Held {
    let (m, n) = (3, 203);
    // All negative, so that nothing hides behind a zero.
    let x = normal(&[m, n], "argmax").map(|x| x - 10.0);
    let index = first!(largest(lab, &x));
    for turn in [1, 50, 202] {
        let turned = (0..m * n).map(|i| x.row(i / n)[(i % n + turn) % n]);
        let turned = first!(largest(lab, &Tensor::new(&[m, n], turned.collect())));
        let want = index.map(|i| ((i as usize + n - turn) % n) as f64);
        require!(equal(&turned.data, &want.data));
    }
    let ties = first!(largest(lab, &Tensor::new(&[1, n], vec![1.0; n])));
    Ok(Some(equal(&ties.data, &[0.0])))
}

fn top_k_order(lab: &Lab) -> Held {
    let (m, n, k) = (3, 203, 20);
    let x = normal(&[m, n], "top").map(|x| f64::from((x * 8.0).round() as f32));
    let op = TopK {
        k,
        dtype: DType::F32,
    };
    let Some(outputs) = lab.run(op, &[&[m, k], &[m, k]], std::slice::from_ref(&x))? else {
        return Ok(None);
    };
    let index = first!(largest(lab, &x));
    for r in 0..m {
        let (values, indices) = (outputs[0].row(r), outputs[1].row(r));
        let there: Vec<f64> = indices
            .iter()
            .map(|&i| x.row(r).get(i as usize).copied().unwrap_or(f64::NAN))
            .collect();
        require!(equal(values, &there));
        let sorted = (1..k).all(|j| {
            values[j - 1] > values[j] || (values[j - 1] == values[j] && indices[j - 1] < indices[j])
        });
        let left_out = x.row(r).iter().filter(|&&x| x > values[k - 1]).count();
        if !sorted || left_out >= k || indices[0] != index.data[r] {
            return Ok(Some(Err(format!("row {r}: {values:?} at {indices:?}"))));
        }
    }
    HOLDS
}

fn id_order(lab: &Lab) -> Held {
    let (vocab, dim) = (50, 33);
    let table = normal(&[vocab, dim], "table").map(|x| f64::from(x as f32));
    let op = Embedding {
        vocab,
        dim,
        table: F32,
        out: DType::F32,
        tied: false,
    };
    let ids = [49usize, 0, 7, 7, 31];
    let ids_values = vector(&ids.map(|id| id as f64));
    let y = first!(lab.run(op, &[&[5, dim]], &[ids_values, table.clone()]));
    Ok(Some(equal(&y.data, &reordered(&table, &ids).data)))
}

/// Rows of logits, each with its own control.
fn drawn(lab: &Lab, logits: &Tensor, controls: &[SampleControl]) -> Result<Option<Vec<Tensor>>> {
    let (m, vocab) = (logits.shape[0], logits.shape[1]);
    let floats = controls.iter().flat_map(|c| c.floats().map(f64::from));
    let ints = controls.iter().flat_map(|c| c.ints().map(f64::from));
    let inputs = [
        logits.clone(),
        Tensor::new(&[m, 3], floats.collect()),
        Tensor::new(&[m, 4], ints.collect()),
        Tensor::new(&[m, 1], vec![3.0; m]),
        Tensor::new(&[m], vec![1.0; m]),
    ];
    lab.run(Sample { vocab }, &[&[m]], &inputs)
}

const CONTROL: SampleControl = SampleControl {
    temperature: 0.8,
    top_p: 0.9,
    repetition_penalty: 1.1,
    top_k: 40,
    seed: 7,
    step: 0,
};

fn draws_alone(lab: &Lab) -> Held {
    let m = 16;
    let logits = normal(&[m, 300], "draws").map(|x| 3.0 * x);
    let controls: Vec<SampleControl> = (0..m as u32)
        .map(|step| SampleControl {
            step,
            temperature: 0.3 + step as f32 / 8.0,
            ..CONTROL
        })
        .collect();
    let all = first!(drawn(lab, &logits, &controls));
    let back = first!(drawn(
        lab,
        &reordered(&logits, &backwards(m)),
        &controls.iter().rev().copied().collect::<Vec<_>>()
    ));
    require!(equal(&back.data, &reordered(&all, &backwards(m)).data));
    for r in 0..m {
        let alone = first!(drawn(lab, &rows(&logits, r, 1), &controls[r..r + 1]));
        require!(equal(&alone.data, &all.data[r..r + 1]));
    }
    HOLDS
}

fn greedy(lab: &Lab) -> Held {
    let logits = normal(&[9, 300], "greedy");
    let control = SampleControl {
        temperature: 0.0,
        repetition_penalty: 1.0,
        ..CONTROL
    };
    let drawn = first!(drawn(lab, &logits, &[control; 9]));
    let index = first!(largest(lab, &logits));
    Ok(Some(equal(&drawn.data, &index.data)))
}
