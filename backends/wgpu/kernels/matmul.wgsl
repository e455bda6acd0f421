// out = act(x · wᵀ + bias) + residual: parameters and what happens to each sum; the sums are made by matmul_few.wgsl
// (few rows of x) and matmul_tile.wgsl (many).

struct Params {
    m: u32,
    n: u32,
    k: u32,
    act: u32,
    // 1: a bias is added; 2: a residual is.
    adds: u32,
    out_first: u32,
    out_stride: u32,
    x_first: u32,
    x_stride: u32,
    data_first: u32,
    row_words: u32,
    scales_first: u32,
    // See `packed_scale`.
    group: u32,
    scale_words: u32,
    bias_first: u32,
    residual_first: u32,
    residual_stride: u32,
}

fn finish(sum: f32, row: u32, col: u32) -> f32 {
    var y = sum;
    if (p.adds & 1u) != 0u {
        y += bias_at(p.bias_first + col);
    }
    y = act(p.act, y);
    if (p.adds & 2u) != 0u {
        y += residual_at(p.residual_first + row * p.residual_stride + col);
    }
    return y;
}
