@group(0) @binding($binding) var<storage, read_write> $name: array<u32>;
fn $name_at(i: u32) -> $type {
    return bitcast<$type>($name[i]);
}
