// out = (x − mean) / sqrt(var + eps) · weight + bias: a workgroup per row, the variance from deviations.

struct Params {
    rows: u32,
    dim: u32,
    eps: f32,
    out_first: u32,
    out_stride: u32,
    x_first: u32,
    x_stride: u32,
    weight_first: u32,
    bias_first: u32,
}

fn value_at(i: u32) -> f32 {
    return x_at(i);
}

fn run(lid: u32, group: u32) {
    if group >= p.rows {
        return;
    }
    layer_row(lid, p.out_first + group * p.out_stride, p.x_first + group * p.x_stride);
}
