//! The references themselves, held to identities that need no reference.

use conformance::Rng;
use conformance::number::round;
use hal::{DType, WeightFormat};
use ops::reference::{Tensor, softmax};
use ops::{
    Attention, BatchedMatmul, Elementwise, HostWeight, LayerNorm, Mask, Matmul, Op, RmsNorm, Rope,
    RopeLayout, Softmax,
};

fn normal(shape: &[usize], label: &str) -> Tensor {
    let mut rng = Rng::of(label);
    let len = shape.iter().product();
    Tensor::new(shape, (0..len).map(|_| rng.normal()).collect())
}

fn integers(shape: &[usize], values: &[i32]) -> Tensor {
    Tensor::new(shape, values.iter().map(|&x| f64::from(x)).collect())
}

fn close(a: &Tensor, b: &Tensor, relative: f64) {
    assert_eq!(a.shape, b.shape);
    let scale = a.data.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    for (i, (x, y)) in a.data.iter().zip(&b.data).enumerate() {
        assert!((x - y).abs() <= relative * scale, "[{i}]: {x} and {y}");
    }
}

#[test]
fn softmax_rows_sum_to_one_and_do_not_feel_a_shift() {
    for label in ["a", "b", "c"] {
        let x = normal(&[1, 5, 1000], label).map(|x| 20.0 * x);
        let op = Softmax {
            dtype: DType::F32,
            scale: 1.0,
            mask: None,
        };
        let y = op
            .reference(&[&x.shape[..]; 2], std::slice::from_ref(&x))
            .remove(0);
        for r in 0..5 {
            let total: f64 = y.row(r).iter().sum();
            assert!((total - 1.0).abs() < 1e-13);
        }
        // 64 is a multiple of every element's spacing here, so the shift is exact.
        let shifted = x.map(|x| (x * 1024.0).round() / 1024.0 + 64.0);
        let grid = shifted.map(|x| x - 64.0);
        assert_eq!(
            op.reference(&[&x.shape[..]; 2], &[shifted]),
            op.reference(&[&x.shape[..]; 2], &[grid])
        );
    }
}

/// `softmax` with a mask, of `rows` new tokens of a sequence of `kv_len`.
fn masked(mask: Mask, x: &Tensor, kv_len: i32, prefix: Option<i32>) -> Tensor {
    let op = Softmax {
        dtype: DType::F32,
        scale: 1.0,
        mask: Some(mask),
    };
    let rows = x.shape[1] as i32;
    let mut inputs = vec![
        x.clone(),
        integers(&[2], &[0, rows]),
        integers(&[1], &[kv_len]),
    ];
    inputs.extend(prefix.map(|p| integers(&[1], &[p])));
    op.reference(&[&x.shape[..]; 2], &inputs).remove(0)
}

#[test]
fn masks_meet_at_their_ends() {
    let x = normal(&[2, 9, 14], "masks");
    let causal = masked(Mask::Causal, &x, 12, None);
    assert_eq!(masked(Mask::Prefix, &x, 12, Some(0)), causal);
    let full = masked(Mask::Full, &x, 12, None);
    assert_eq!(masked(Mask::Prefix, &x, 12, Some(12)), full);
    // The last token sees the whole sequence under any mask.
    assert_eq!(causal.row(8), full.row(8));
    // Columns beyond the sequence are hidden, and a causal row is a softmax of what it sees.
    assert!((0..18).all(|r| full.row(r)[12..] == [0.0; 2]));
    let mut first = x.row(0)[..4].to_vec();
    softmax(&mut first);
    assert_eq!(causal.row(0)[..4], first);
}

/// One sequence, its keys and values in pages in order.
struct Scene {
    op: Attention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Vec<i32>,
    kv_len: i32,
    prefix: i32,
}

impl Scene {
    fn new(mask: Mask, tokens: usize, kv_len: i32, label: &str) -> Self {
        let op = Attention {
            heads: 4,
            kv_heads: 2,
            head_dim: 8,
            pages: 5,
            page_size: 3,
            scale: 0.25,
            mask,
            dtype: DType::F32,
            kv: DType::F32,
        };
        Self {
            q: normal(&[tokens, 4, 8], &format!("q {label}")),
            k: normal(&[5, 2, 3, 8], &format!("k {label}")),
            v: normal(&[5, 2, 3, 8], &format!("v {label}")),
            table: vec![0, 1, 2, 3, 4],
            kv_len,
            prefix: 0,
            op,
        }
    }

    fn run(&self) -> Tensor {
        let tokens = self.q.shape[0] as i32;
        let mut inputs = vec![
            self.q.clone(),
            self.k.clone(),
            self.v.clone(),
            integers(&[1, self.table.len()], &self.table),
            integers(&[2], &[0, tokens]),
            integers(&[1], &[self.kv_len]),
        ];
        if self.op.mask == Mask::Prefix {
            inputs.push(integers(&[1], &[self.prefix]));
        }
        self.op.reference(&[&self.q.shape], &inputs).remove(0)
    }
}

#[test]
fn attention_to_one_key_is_its_value() {
    let scene = Scene::new(Mask::Causal, 1, 1, "one key");
    let out = scene.run();
    for h in 0..4 {
        close_rows(out.row(h), scene.v.row(h / 2 * 3));
    }
}

fn close_rows(a: &[f64], b: &[f64]) {
    let of = |x: &[f64]| Tensor::new(&[x.len()], x.to_vec());
    close(&of(a), &of(b), 1e-14);
}

#[test]
fn attention_with_prefix_zero_is_causal_and_with_all_is_full() {
    let causal = Scene::new(Mask::Causal, 6, 11, "masks").run();
    let mut scene = Scene::new(Mask::Prefix, 6, 11, "masks");
    assert_eq!(scene.run(), causal);
    scene.prefix = 11;
    assert_eq!(scene.run(), Scene::new(Mask::Full, 6, 11, "masks").run());
}

#[test]
fn attention_does_not_depend_on_where_pages_lie() {
    let scene = Scene::new(Mask::Causal, 6, 14, "pages");
    let mut moved = Scene::new(Mask::Causal, 6, 14, "pages");
    moved.table = vec![3, 0, 4, 1, 2];
    for (i, &page) in moved.table.iter().enumerate() {
        let (from, to, n) = (i * 48, page as usize * 48, 48);
        moved.k.data[to..to + n].copy_from_slice(&scene.k.data[from..from + n]);
        moved.v.data[to..to + n].copy_from_slice(&scene.v.data[from..from + n]);
    }
    assert_eq!(moved.run(), scene.run());
}

#[test]
fn prefill_of_n_plus_one_is_prefill_of_n_and_one_decode() {
    let whole = Scene::new(Mask::Causal, 8, 8, "prefill").run();
    let mut decode = Scene::new(Mask::Causal, 8, 8, "prefill");
    decode.q = Tensor::new(&[1, 4, 8], decode.q.data[7 * 32..].to_vec());
    assert_eq!(decode.run().data, whole.data[7 * 32..]);
    let mut prefill = Scene::new(Mask::Causal, 8, 7, "prefill");
    prefill.q = Tensor::new(&[7, 4, 8], prefill.q.data[..7 * 32].to_vec());
    assert_eq!(prefill.run().data, whole.data[..7 * 32]);
}

#[test]
fn rope_preserves_norms_and_feels_only_relative_positions() {
    for layout in [RopeLayout::Interleaved, RopeLayout::HalfSplit] {
        let op = Rope {
            head_dim: 16,
            rotary_dim: 12,
            streams: 1,
            layout,
            dtype: DType::F32,
        };
        let angle = |i: usize| (i / 6) as f64 * 10_000f64.powf(-((i % 6) as f64) / 6.0);
        let table =
            |f: fn(f64) -> f64| Tensor::new(&[40, 6], (0..240).map(|i| f(angle(i))).collect());
        let rotate = |x: &Tensor, position: i32| {
            let inputs = [
                x.clone(),
                integers(&[1, 1], &[position]),
                table(f64::cos),
                table(f64::sin),
            ];
            op.reference(&[&x.shape], &inputs).remove(0)
        };
        let (q, k) = (normal(&[1, 1, 16], "rope q"), normal(&[1, 1, 16], "rope k"));
        let dot = |a: &Tensor, b: &Tensor| ops::reference::dot(&a.data, &b.data);
        let turned = rotate(&q, 31);
        assert!((dot(&turned, &turned) / dot(&q, &q) - 1.0).abs() < 1e-14);
        assert_eq!(turned.data[12..], q.data[12..]);
        assert_eq!(rotate(&q, 0), q);
        let near = dot(&rotate(&q, 9), &rotate(&k, 4));
        let far = dot(&rotate(&q, 35), &rotate(&k, 30));
        assert!((near - far).abs() < 1e-12, "{near} {far}");
        assert!((near - dot(&rotate(&q, 9), &rotate(&k, 5))).abs() > 1e-3);
    }
}

#[test]
fn layer_norm_does_not_feel_shift_or_scale() {
    let op = LayerNorm {
        dim: 64,
        dtype: DType::F32,
        eps: 0.0,
    };
    let (x, weight, bias) = (
        normal(&[3, 64], "layer x"),
        normal(&[64], "layer w"),
        normal(&[64], "layer b"),
    );
    let norm = |x: Tensor| {
        let inputs = [x, weight.clone(), bias.clone()];
        op.reference(&[&[3, 64]], &inputs).remove(0)
    };
    let y = norm(x.clone());
    close(&y, &norm(x.map(|x| x + 100.0)), 1e-12);
    close(&y, &norm(x.map(|x| 7.0 * x)), 1e-13);
    // Without weight and bias every row has mean 0 and variance 1.
    let plain = |shape: &[usize], value| Tensor::zeros(shape).map(|_| value);
    let inputs = [x, plain(&[64], 1.0), plain(&[64], 0.0)];
    let y = op.reference(&[&[3, 64]], &inputs).remove(0);
    for r in 0..3 {
        let mean = y.row(r).iter().sum::<f64>() / 64.0;
        let square = y.row(r).iter().map(|y| y * y).sum::<f64>() / 64.0;
        assert!(mean.abs() < 1e-14 && (square - 1.0).abs() < 1e-13);
    }
}

#[test]
fn rms_norm_of_ones_is_its_weight() {
    let op = RmsNorm {
        dim: 32,
        dtype: DType::F32,
        eps: 0.0,
    };
    let (ones, weight) = (
        Tensor::zeros(&[2, 32]).map(|_| -3.0),
        normal(&[32], "rms w"),
    );
    let y = op.reference(&[&[2, 32]], &[ones, weight.clone()]).remove(0);
    close_rows(y.row(1), &weight.map(|w| -w).data);
}

#[test]
fn products_with_the_identity_change_nothing() {
    let mut eye = Tensor::zeros(&[24, 24]);
    (0..24).for_each(|i| *eye.at_mut(&[i, i]) = 1.0);
    let x = normal(&[5, 24], "identity");
    let matmul = Matmul::new(24, 24, DType::F32, WeightFormat::Dense(DType::F32));
    let out = matmul.reference(&[&[5, 24]], &[x.clone(), eye.clone()]);
    assert_eq!(out[0], x);
    let batched = BatchedMatmul {
        a: DType::F32,
        b: DType::F32,
        out: DType::F32,
        alpha: 1.0,
    };
    let four = |t: &Tensor| Tensor::new(&[1, 1, t.shape[0], t.shape[1]], t.data.clone());
    let out = batched.reference(&[&[1, 1, 5, 24]], &[four(&x), four(&eye)]);
    assert_eq!(out[0].data, x.data);
    // Rows of the left operand do not see one another.
    let reversed = Tensor::new(
        &[5, 24],
        (0..5).rev().flat_map(|r| x.row(r).to_vec()).collect(),
    );
    let w = normal(&[24, 24], "weight");
    let (a, b) = (
        matmul.reference(&[&[5, 24]], &[x, w.clone()]).remove(0),
        matmul.reference(&[&[5, 24]], &[reversed, w]).remove(0),
    );
    assert!((0..5).all(|r| a.row(r) == b.row(4 - r)));
}

#[test]
fn sums_and_differences_undo_each_other() {
    let (a, b) = (normal(&[4, 9], "a"), normal(&[4, 9], "b"));
    let op = |kind| Elementwise {
        kind,
        dtype: DType::F32,
        alpha: 0.5,
    };
    let apply = |kind, a: &Tensor| {
        op(kind)
            .reference(&[&[4, 9]], &[a.clone(), b.clone()])
            .remove(0)
    };
    close(
        &apply(ops::Binary::Sub, &apply(ops::Binary::Add, &a)),
        &a,
        1e-15,
    );
}

#[test]
fn quantising_what_was_dequantised_changes_nothing() {
    for format in WeightFormat::ALL {
        let (rows, cols) = (6, 256);
        let dense = |values: &Tensor| {
            let bytes = values.data.iter();
            let bytes = bytes.flat_map(|&x| (round(DType::F32, x) as f32).to_le_bytes());
            let f32 = WeightFormat::Dense(DType::F32);
            HostWeight::new(f32, rows, cols, bytes.collect::<Vec<u8>>(), Vec::new()).unwrap()
        };
        let source = dense(&normal(&[rows, cols], "quantise"));
        let once = source.convert(format).unwrap();
        let again = dense(&once.dequantise());
        let twice = again.convert(format).unwrap();
        assert_eq!(once.data, twice.data, "{format}");
        close(&once.dequantise(), &twice.dequantise(), 1e-7);
    }
}
