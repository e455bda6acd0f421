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

fn run(lid: u32, group: u32) {
    if group >= p.rows {
        return;
    }
    let start = p.out_first + group * p.out_stride;
    let source = p.x_first + group * p.x_stride;
    var squares = 0.0;
    for (var c = lid; c < p.dim; c += WG) {
        let x = x_at(source + c);
        squares += x * x;
    }
    let scale = 1.0 / sqrt(sum_all(squares, lid) / f32(p.dim) + p.eps);
    for (var unit = lid; unit < out_units(start, p.dim); unit += WG) {
        let c = out_cols(start, unit);
        let x = vec2<f32>(x_at(source + c.x), x_at(source + c.y));
        let w = vec2<f32>(weight_at(p.weight_first + c.x), weight_at(p.weight_first + c.y));
        out_put_unit(start, p.dim, unit, vec2<f32>(times(x.x, scale * w.x), times(x.y, scale * w.y)));
    }
}
