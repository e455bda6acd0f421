// out = a + b·alpha (0), a − b·alpha (1), a · b·alpha (2).

struct Params {
    shape: vec4<u32>,
    out_strides: vec4<u32>,
    a_strides: vec4<u32>,
    b_strides: vec4<u32>,
    out_first: u32,
    a_first: u32,
    b_first: u32,
    n: u32,
    // Whether the elements of out lie side by side.
    dense: u32,
    kind: u32,
    alpha: f32,
}

fn element(flat: u32) -> f32 {
    let a = a_at(p.a_first + place(flat, p.shape, p.a_strides));
    let b = p.alpha * b_at(p.b_first + place(flat, p.shape, p.b_strides));
    switch p.kind {
        case 0u: {
            return a + b;
        }
        case 1u: {
            return a - b;
        }
        default: {
            return a * b;
        }
    }
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
