// out = f(x): an invocation per word of out.

struct Params {
    rows: u32,
    dim: u32,
    // The most words that a row has.
    units: u32,
    kind: u32,
    out_first: u32,
    out_stride: u32,
    x_first: u32,
    x_stride: u32,
}

fn run(lid: u32, group: u32) {
    let i = group * WG + lid;
    let row = i / p.units;
    let unit = i % p.units;
    let start = p.out_first + row * p.out_stride;
    if row >= p.rows || unit >= out_units(start, p.dim) {
        return;
    }
    let source = p.x_first + row * p.x_stride;
    let cols = out_cols(start, unit);
    let values = vec2<f32>(act(p.kind, x_at(source + cols.x)), act(p.kind, x_at(source + cols.y)));
    out_put_unit(start, p.dim, unit, values);
}
