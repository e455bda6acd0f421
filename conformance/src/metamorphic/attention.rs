//! Properties of softmax, attention and its cache.

use hal::{DType, Result};
use ops::reference::Tensor;
use ops::{Attention, KvWrite, Mask, Softmax};

use super::{HOLDS, Held, Row, close, equal, first, reordered, require, rows, vector};
use crate::lab::{Lab, normal};

pub(super) const TESTS: &[Row] = &[
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
];

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
