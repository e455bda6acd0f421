// The row of `out` from `start` on: the values from `first` on, by mean and deviation. `value_at` is the kernel's.
fn layer_row(lid: u32, start: u32, first: u32) {
    var sum = 0.0;
    for (var c = lid; c < p.dim; c += WG) {
        sum += value_at(first + c);
    }
    let mean = sum_all(sum, lid) / f32(p.dim);
    var squares = 0.0;
    for (var c = lid; c < p.dim; c += WG) {
        let d = value_at(first + c) - mean;
        squares += d * d;
    }
    let scale = 1.0 / sqrt(sum_all(squares, lid) / f32(p.dim) + p.eps);
    for (var unit = lid; unit < out_units(start, p.dim); unit += WG) {
        let c = out_cols(start, unit);
        let x = vec2<f32>(value_at(first + c.x), value_at(first + c.y));
        let w = vec2<f32>(weight_at(p.weight_first + c.x), weight_at(p.weight_first + c.y));
        let b = vec2<f32>(bias_at(p.bias_first + c.x), bias_at(p.bias_first + c.y));
        out_put_unit(start, p.dim, unit, (x - mean) * scale * w + b);
    }
}
