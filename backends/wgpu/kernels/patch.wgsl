// Writes the bytes of one word whose mask is set, and leaves the others to whoever owns them.

struct Params {
    word: u32,
    mask: u32,
    bits: u32,
}

fn run(lid: u32, group: u32) {
    if lid == 0u && group == 0u {
        let old = atomicLoad(&out[p.word]);
        atomicXor(&out[p.word], (old ^ p.bits) & p.mask);
    }
}
