// sum = x + alpha · residual; out = sum · weight / sqrt(mean(sum²) + eps), of the sum as it was stored: a workgroup
// per row.

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
}

fn run(lid: u32, group: u32) {
    if group >= p.rows {
        return;
    }
    let start = p.out_first + group * p.out_stride;
    let sums = p.sum_first + group * p.sum_stride;
    let source = p.x_first + group * p.x_stride;
    let rest = p.residual_first + group * p.residual_stride;
    for (var unit = lid; unit < sum_units(sums, p.dim); unit += WG) {
        let c = sum_cols(sums, unit);
        let x = vec2<f32>(x_at(source + c.x), x_at(source + c.y));
        let r = vec2<f32>(residual_at(rest + c.x), residual_at(rest + c.y));
        sum_put_unit(sums, p.dim, unit, x + p.alpha * r);
    }
    storageBarrier();
    var squares = 0.0;
    for (var c = lid; c < p.dim; c += WG) {
        let x = sum_at(sums + c);
        squares += x * x;
    }
    let scale = 1.0 / sqrt(sum_all(squares, lid) / f32(p.dim) + p.eps);
    for (var unit = lid; unit < out_units(start, p.dim); unit += WG) {
        let c = out_cols(start, unit);
        let x = vec2<f32>(sum_at(sums + c.x), sum_at(sums + c.y));
        let w = vec2<f32>(weight_at(p.weight_first + c.x), weight_at(p.weight_first + c.y));
        out_put_unit(start, p.dim, unit, vec2<f32>(times(x.x, scale * w.x), times(x.y, scale * w.y)));
    }
}
