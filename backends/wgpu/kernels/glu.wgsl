// out = act(g) · u, g and u being halves of the row: an invocation per word of out.

struct Params {
    rows: u32,
    dim: u32,
    // The most words that a row has.
    units: u32,
    kind: u32,
    out_first: u32,
    out_stride: u32,
    // Where the gate and the other half of the first row begin.
    gate_first: u32,
    up_first: u32,
    x_stride: u32,
    clamps: u32,
    limit: f32,
}

fn value(gate: u32, up: u32) -> f32 {
    var g = x_at(gate);
    var u = x_at(up);
    if p.clamps == 1u {
        // Comparisons, not min and max: a NaN stays one.
        g = select(g, p.limit, g > p.limit);
        u = select(u, p.limit, u > p.limit);
        u = select(u, -p.limit, u < -p.limit);
    }
    return act(p.kind, g) * u;
}

fn run(lid: u32, group: u32) {
    let i = group * WG + lid;
    let row = i / p.units;
    let unit = i % p.units;
    let start = p.out_first + row * p.out_stride;
    if row >= p.rows || unit >= out_units(start, p.dim) {
        return;
    }
    let gate = p.gate_first + row * p.x_stride;
    let up = p.up_first + row * p.x_stride;
    let cols = out_cols(start, unit);
    let values = vec2<f32>(value(gate + cols.x, up + cols.x), value(gate + cols.y, up + cols.y));
    out_put_unit(start, p.dim, unit, values);
}
