@group(0) @binding($binding) var<storage, read_write> $name: array<u32>;
fn $name_at(i: u32) -> $type {
    return bitcast<$type>($name[i]);
}
fn $name_put(i: u32, value: $type) {
    $name[i] = bitcast<u32>(value);
}
// Words of the row of n elements from `start` on: its elements.
fn $name_units(start: u32, n: u32) -> u32 {
    return n;
}
// The column in word `unit`, twice.
fn $name_cols(start: u32, unit: u32) -> vec2<u32> {
    return vec2<u32>(unit);
}
fn $name_put_unit(start: u32, n: u32, unit: u32, pair: vec2<$type>) {
    $name[start + unit] = bitcast<u32>(pair.x);
}
