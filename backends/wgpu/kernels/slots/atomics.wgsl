@group(0) @binding($binding) var<storage, read_write> $name: array<atomic<u32>>;
