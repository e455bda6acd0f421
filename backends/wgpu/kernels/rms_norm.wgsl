// out = x · weight / sqrt(mean(x²) + eps): a workgroup per row.

struct Params {
    rows: u32,
    dim: u32,
    eps: f32,
    out_first: u32,
    out_stride: u32,
    x_first: u32,
    x_stride: u32,
    weight_first: u32,
}

fn value_at(i: u32) -> f32 {
    return x_at(i);
}

fn run(lid: u32, group: u32) {
    if group >= p.rows {
        return;
    }
    rms_row(lid, p.out_first + group * p.out_stride, p.x_first + group * p.x_stride);
}
