// The row `group` of the residual sum, which begins at `sums`; then all of the workgroup see it as it was stored.
fn sum_row(lid: u32, group: u32, sums: u32) {
    let source = p.x_first + group * p.x_stride;
    let rest = p.residual_first + group * p.residual_stride;
    for (var unit = lid; unit < sum_units(sums, p.dim); unit += WG) {
        let c = sum_cols(sums, unit);
        let x = vec2<f32>(x_at(source + c.x), x_at(source + c.y));
        let r = vec2<f32>(residual_at(rest + c.x), residual_at(rest + c.y));
        sum_put_unit(sums, p.dim, unit, x + p.alpha * r);
    }
    storageBarrier();
}

fn value_at(i: u32) -> f32 {
    return sum_at(i);
}
