// out = x, bit for bit; elements of SIZE bytes, LANES of them in a word.

const LANES: u32 = 4u / SIZE;
const ELEMENT: u32 = 0xffffffffu >> (32u - 8u * SIZE);

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

fn element(flat: u32) -> u32 {
    let at = p.x_first + place(flat, p.shape, p.x_strides);
    return (x[at / LANES] >> (at % LANES * 8u * SIZE)) & ELEMENT;
}

// The bits of a word in `mask`; others are left to whoever owns them.
fn put(word: u32, mask: u32, bits: u32) {
    if mask == 0xffffffffu {
        atomicStore(&out[word], bits);
    } else {
        let old = atomicLoad(&out[word]);
        atomicXor(&out[word], (old ^ bits) & mask);
    }
}

fn run(lid: u32, group: u32) {
    let i = group * WG + lid;
    if p.dense == 0u {
        if i < p.n {
            let at = p.out_first + place(i, p.shape, p.out_strides);
            let shift = at % LANES * 8u * SIZE;
            put(at / LANES, ELEMENT << shift, element(i) << shift);
        }
        return;
    }
    // A word each: its elements begin before out does, at most.
    let before = p.out_first % LANES;
    if i * LANES >= before + p.n {
        return;
    }
    var mask = 0u;
    var bits = 0u;
    for (var lane = 0u; lane < LANES; lane++) {
        let flat = i * LANES + lane - before;
        if flat < p.n {
            mask |= ELEMENT << (lane * 8u * SIZE);
            bits |= element(flat) << (lane * 8u * SIZE);
        }
    }
    put(p.out_first / LANES + i, mask, bits);
}
