@group(0) @binding($binding) var<storage, read_write> $name: array<u32>;
fn $name_at(i: u32) -> f32 {
    return $type_decode($name[i >> 1u] >> ((i & 1u) * 16u));
}
