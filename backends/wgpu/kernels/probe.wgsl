// Whether products keep numbers below the normal range, as an operand and as a result; and how many f16 numbers the
// device's own function does not give as they are.

struct Params {
    operand: f32,
    one: f32,
    a: f32,
    b: f32,
}

fn run(lid: u32, group: u32) {
    var wrong = 0u;
    for (var h = lid; h < 0x10000u; h += WG) {
        let x = f16_by_integers(h);
        let y = unpack2x16float(h).x;
        wrong += u32(bitcast<u32>(x) != bitcast<u32>(y) && !(is_nan(x) && is_nan(y)));
    }
    wrong = count_all(wrong, lid);
    if lid == 0u && group == 0u {
        out[0] = bitcast<u32>(p.operand * p.one);
        out[1] = bitcast<u32>(p.a * p.b);
        out[2] = wrong;
    }
}
