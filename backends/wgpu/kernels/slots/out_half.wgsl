@group(0) @binding($binding) var<storage, read_write> $name: array<atomic<u32>>;
fn $name_at(i: u32) -> f32 {
    return $type_decode(atomicLoad(&$name[i >> 1u]) >> ((i & 1u) * 16u));
}
// One half of a word; whoever writes the other half at the same time is not disturbed.
fn $name_put(i: u32, value: f32) {
    let shift = (i & 1u) * 16u;
    let bits = $type_encode(value) << shift;
    let old = atomicLoad(&$name[i >> 1u]);
    atomicXor(&$name[i >> 1u], (old ^ bits) & (0xffffu << shift));
}
// Words that hold elements of the row of n elements from `start` on.
fn $name_units(start: u32, n: u32) -> u32 {
    return ((start & 1u) + n + 1u) / 2u;
}
// Columns of the two elements in word `unit`; outside the row they are n or more.
fn $name_cols(start: u32, unit: u32) -> vec2<u32> {
    let first = unit * 2u - (start & 1u);
    return vec2<u32>(first, first + 1u);
}
fn $name_put_unit(start: u32, n: u32, unit: u32, pair: vec2<f32>) {
    let cols = $name_cols(start, unit);
    if cols.x < n && cols.y < n {
        let word = $type_encode(pair.x) | $type_encode(pair.y) << 16u;
        atomicStore(&$name[(start >> 1u) + unit], word);
    } else if cols.x < n {
        $name_put(start + cols.x, pair.x);
    } else if cols.y < n {
        $name_put(start + cols.y, pair.y);
    }
}
