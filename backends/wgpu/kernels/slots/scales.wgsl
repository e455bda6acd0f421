@group(0) @binding($binding) var<storage, read> $name: array<u32>;
