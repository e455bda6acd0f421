// The row of `out` from `start` on: the values from `first` on, by their root mean square. `value_at` is the kernel's.
fn rms_row(lid: u32, start: u32, first: u32) {
    var squares = 0.0;
    for (var c = lid; c < p.dim; c += WG) {
        let x = value_at(first + c);
        squares += x * x;
    }
    let scale = 1.0 / sqrt(sum_all(squares, lid) / f32(p.dim) + p.eps);
    for (var unit = lid; unit < out_units(start, p.dim); unit += WG) {
        let c = out_cols(start, unit);
        let x = vec2<f32>(value_at(first + c.x), value_at(first + c.y));
        let w = vec2<f32>(weight_at(p.weight_first + c.x), weight_at(p.weight_first + c.y));
        out_put_unit(start, p.dim, unit, vec2<f32>(times(x.x, scale * w.x), times(x.y, scale * w.y)));
    }
}
