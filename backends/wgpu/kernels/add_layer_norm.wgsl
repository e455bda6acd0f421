// sum = x + alpha · residual; out = (sum − mean) / sqrt(var + eps) · weight + bias, of the sum as it was stored: a
// workgroup per row.

struct Params {
    rows: u32,
    dim: u32,
    eps: f32,
    alpha: f32,
    out_first: u32,
    out_stride: u32,
    sum_first: u32,
    sum_stride: u32,
    x_first: u32,
    x_stride: u32,
    residual_first: u32,
    residual_stride: u32,
    weight_first: u32,
    bias_first: u32,
}

fn run(lid: u32, group: u32) {
    if group >= p.rows {
        return;
    }
    let sums = p.sum_first + group * p.sum_stride;
    sum_row(lid, group, sums);
    layer_row(lid, p.out_first + group * p.out_stride, sums);
}
