//! What each operation is tried on, and how exact it must be: one file per operation, named as in `ops`.

mod activation;
mod add_layer_norm;
mod add_rms_norm;
mod argmax;
mod attention;
mod batched_matmul;
mod cast;
mod copy;
mod elementwise;
mod embedding;
mod glu;
mod kv_write;
mod layer_norm;
mod matmul;
mod norm;
mod rms_norm;
pub(crate) mod rope;
mod rope_kv_write;
mod sample;
mod softmax;
mod top_k;

use std::collections::BTreeSet;

use hal::{DType, Numerics};
use ops::reference::Tensor;
use ops::{Op, kv_cache};

use crate::case::Fill;
use crate::picks::covering;
use crate::shapes::Sizes;
use crate::{Case, Expected, Generator, Operand, Picks};

/// An operation that the suite knows how to try and to judge.
pub trait Conformance: Op {
    /// The case that these picks choose.
    fn case(picks: &mut Picks) -> Case<Self>;

    /// What the outputs must be on a device of this card. Arguments as for [`Op::reference`]; one entry per `Out` and
    /// `InOut`, in order.
    fn expect(&self, shapes: &[&[usize]], inputs: &[Tensor], card: &Numerics) -> Vec<Expected>;

    /// Rows and columns of the packed weight, for operations that have one.
    fn weight_shape(&self) -> Option<[usize; 2]> {
        None
    }

    /// The type of the KV cache, for operations that have one. Outputs of a cache of int8 are compared by the numbers that
    /// their rows stand for.
    fn cache_dtype(&self) -> Option<DType> {
        None
    }

    /// `case` again with a cache of int8, for some cases of operations that have a cache.
    fn with_int8_cache(_case: &Case<Self>) -> Option<Case<Self>> {
        None
    }

    /// The standard cases: every pair of picks occurs, no case twice; and some again with a cache of int8.
    fn cases() -> Vec<Case<Self>> {
        let mut seen = BTreeSet::new();
        let rows = covering(&Picks::questions(Self::case)).into_iter();
        let mut cases: Vec<_> = rows.map(|row| Self::case(&mut Picks::row(row))).collect();
        cases.retain(|case| seen.insert(case.id()));
        let int8: Vec<_> = cases.iter().filter_map(Self::with_int8_cache).collect();
        cases.extend(int8);
        cases
    }

    /// Cases of the sizes that GLM's own models have.
    fn model_cases(_sizes: Sizes) -> Vec<Case<Self>> {
        Vec::new()
    }
}

/// A case of a cache of f16 with one of int8, to which `kv` leads, instead. `caches` are the arguments that are keys and values.
fn with_int8_cache<O: Conformance>(
    case: &Case<O>,
    caches: [usize; 2],
    kv: impl Fn(&mut O) -> &mut DType,
) -> Option<Case<O>> {
    if case.op.cache_dtype() != Some(DType::F16) {
        return None;
    }
    let mut case = case.clone();
    *kv(&mut case.op) = DType::I8;
    for i in caches {
        let Operand { shape, fill, .. } = &case.operands[i];
        let numbers = match fill {
            Fill::Values(values) => values.clone(),
            _ => {
                let (len, row) = (shape.iter().product(), shape[3]);
                Generator::Normal.fill(DType::F32, len, row, &mut case.rng(i))
            }
        };
        let rows = kv_cache::encode(DType::I8, &Tensor::new(shape, numbers));
        case.operands[i] = Operand::values(&rows.shape, rows.data);
    }
    Some(case)
}

/// The float types.
const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// What bit-exact operations are tried on.
const EXACT_GENERATORS: [Generator; 9] = [
    Generator::Normal,
    Generator::Integers,
    Generator::Wide,
    Generator::Subnormals,
    Generator::SignedZeros,
    Generator::NegInf,
    Generator::Nan,
    Generator::NearMax,
    Generator::HalfSubnormals,
];

/// What normalisations are tried on.
const NORM_GENERATORS: [Generator; 7] = [
    Generator::Normal,
    Generator::Outliers,
    Generator::Shifted,
    Generator::Constant,
    Generator::SignedZeros,
    Generator::Subnormals,
    Generator::Nan,
];

/// What operations that rank elements are tried on.
const RANK_GENERATORS: [Generator; 8] = [
    Generator::Normal,
    Generator::Ties,
    Generator::Constant,
    Generator::SignedZeros,
    Generator::NegInf,
    Generator::Rising,
    Generator::Nan,
    Generator::NearMax,
];

/// A shape of up to four dimensions, for operations that take any.
fn strided_shape(picks: &mut Picks) -> Vec<usize> {
    let rank = picks.one(&[2, 0, 1, 3, 4]);
    let sizes = [
        picks.size(33),
        picks.size(129),
        picks.one(&[3, 1, 2]),
        picks.one(&[1, 2]),
    ];
    let mut shape = sizes[..rank].to_vec();
    // The longest dimension last.
    shape.sort_unstable();
    shape
}
