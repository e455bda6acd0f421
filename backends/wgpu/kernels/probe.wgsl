// Whether products keep numbers below the normal range: as an operand, and as a result.

struct Params {
    operand: f32,
    one: f32,
    a: f32,
    b: f32,
}

fn run(lid: u32, group: u32) {
    if lid == 0u && group == 0u {
        out[0] = bitcast<u32>(p.operand * p.one);
        out[1] = bitcast<u32>(p.a * p.b);
    }
}
