// out = x, rounded to nearest even; any NaN for a NaN.

struct Params {
    shape: vec4<u32>,
    out_strides: vec4<u32>,
    x_strides: vec4<u32>,
    out_first: u32,
    x_first: u32,
    n: u32,
    // Whether the elements of out lie side by side.
    dense: u32,
}

fn element(flat: u32) -> f32 {
    return x_at(p.x_first + place(flat, p.shape, p.x_strides));
}

fn run(lid: u32, group: u32) {
    let i = group * WG + lid;
    if p.dense == 0u {
        if i < p.n {
            out_put(p.out_first + place(i, p.shape, p.out_strides), element(i));
        }
    } else if i < out_units(p.out_first, p.n) {
        let cols = out_cols(p.out_first, i);
        out_put_unit(p.out_first, p.n, i, vec2<f32>(element(cols.x), element(cols.y)));
    }
}
