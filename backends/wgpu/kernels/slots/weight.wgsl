@group(0) @binding($binding) var<storage, read> $name: array<vec4<u32>>;
