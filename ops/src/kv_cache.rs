//! How a KV cache holds the key or value of one slot and head: a *row*.
//!
//! A float cache holds `head_dim` elements, each rounded by itself. An i8 cache holds `head_dim` elements in [-127, 127] and,
//! in four more bytes, their scale, an f32, least significant byte first, at whatever address: `x = q · scale` with
//! `scale = max |x| / 127`. A row takes half as much memory as one of f16, but for its scale.
//!
//! A row that would have a scale below the normal range of f32 is zeros. A row with an element that is not finite is NaN as a
//! whole. Zeroed memory is zeros.

use hal::DType;

use crate::reference::Tensor;

/// Bytes of an i8 row's scale, which follows its elements.
pub const SCALE_BYTES: usize = 4;

/// The largest magnitude of an i8 row's elements.
pub const LARGEST: f32 = 127.0;

/// Elements of type `kv` that a row takes, its scale included.
pub const fn row_elements(kv: DType, head_dim: usize) -> usize {
    match kv {
        DType::I8 => head_dim + SCALE_BYTES,
        _ => head_dim,
    }
}

/// What rows of a cache of type `kv` stand for: the last dimension becomes `head_dim`.
pub fn decode(kv: DType, rows: &Tensor) -> Tensor {
    if kv != DType::I8 {
        return rows.clone();
    }
    let head_dim = rows.shape.last().map_or(0, |n| n - SCALE_BYTES);
    let row = |r: usize| {
        let (q, scale) = rows.row(r).split_at(head_dim);
        let scale = f32::from_le_bytes(std::array::from_fn(|i| scale[i] as i8 as u8));
        q.iter().map(move |q| q * f64::from(scale))
    };
    with_last(rows, head_dim, (0..rows.rows()).flat_map(row).collect())
}

/// Rows of a cache of type `kv` that stand for `x`, before an element of a float cache is rounded.
pub fn encode(kv: DType, x: &Tensor) -> Tensor {
    if kv != DType::I8 {
        return x.clone();
    }
    let head_dim = x.shape.last().copied().unwrap_or(1);
    let row = |r: usize| {
        let x = x.row(r);
        let not_finite = x.iter().any(|x| !x.is_finite());
        let largest = x.iter().fold(0.0f64, |max, x| max.max(x.abs()));
        let scale = match (largest / f64::from(LARGEST)) as f32 {
            _ if not_finite => f32::NAN,
            scale if scale < f32::MIN_POSITIVE => 0.0,
            scale => scale,
        };
        let q = move |x: &f64| match scale > 0.0 {
            true => (x / f64::from(scale))
                .round_ties_even()
                .clamp(-127.0, 127.0),
            false => 0.0,
        };
        let bytes = scale.to_le_bytes().map(|byte| f64::from(byte as i8));
        x.iter().map(q).chain(bytes).collect::<Vec<f64>>()
    };
    let n = row_elements(kv, head_dim);
    with_last(x, n, (0..x.rows()).flat_map(row).collect())
}

/// A tensor of the shape of `like` but for the last dimension.
fn with_last(like: &Tensor, last: usize, data: Vec<f64>) -> Tensor {
    let mut shape = like.shape.clone();
    if let Some(n) = shape.last_mut() {
        *n = last;
    }
    Tensor::new(&shape, data)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(x: &[f64]) -> Vec<f64> {
        let rows = encode(DType::I8, &Tensor::new(&[1, x.len()], x.to_vec()));
        assert_eq!(rows.shape, [1, x.len() + SCALE_BYTES]);
        assert!(rows.data.iter().all(|q| (-128.0..=127.0).contains(q)));
        decode(DType::I8, &rows).data
    }

    #[test]
    fn an_element_is_half_a_step_away_at_most() {
        let x: Vec<f64> = (0..100).map(|i| f64::from(i * i % 37) - 11.5).collect();
        for factor in [1.0, 1e-30, 3e34] {
            let x: Vec<f64> = x.iter().map(|x| x * factor).collect();
            let step = 24.5 * factor / 127.0;
            for (x, y) in x.iter().zip(there_and_back(&x)) {
                assert!((x - y).abs() <= 0.5001 * step, "{x} became {y}");
            }
        }
    }

    #[test]
    fn rows_without_a_scale() {
        assert_eq!(there_and_back(&[0.0, -0.0]), [0.0, 0.0]);
        assert_eq!(there_and_back(&[1e-37, 0.0]), [0.0, 0.0]);
        assert!(there_and_back(&[1.0, f64::NAN]).iter().all(|x| x.is_nan()));
        assert!(
            there_and_back(&[1.0, f64::INFINITY])
                .iter()
                .all(|x| x.is_nan())
        );
        let zeroed = Tensor::zeros(&[2, 3 + SCALE_BYTES]);
        assert_eq!(decode(DType::I8, &zeroed), Tensor::zeros(&[2, 3]));
    }

    #[test]
    fn float_rows_are_as_they_are() {
        let x = Tensor::new(&[1, 2], vec![0.1, -3.0]);
        assert_eq!(encode(DType::F16, &x), x);
        assert_eq!(decode(DType::BF16, &x), x);
        assert_eq!(row_elements(DType::F16, 80), 80);
    }
}
