@group(0) @binding($binding) var<storage, read_write> $name: array<u32>;
