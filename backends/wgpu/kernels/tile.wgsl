// A tile of a product, made by a workgroup from tiles of both factors in workgroup memory, each invocation a block.

// A side of the tile, of an invocation's block, and the depth that is in workgroup memory at a time.
const TILE: u32 = 32u;
const BLOCK: u32 = 4u;
const DEPTH: u32 = 16u;

// By depth, then row or column.
var<workgroup> a_tile: array<f32, TILE * DEPTH>;
var<workgroup> b_tile: array<f32, TILE * DEPTH>;

// Where an invocation's block begins.
fn block_of(lid: u32) -> vec2<u32> {
    return vec2<u32>(lid / (TILE / BLOCK), lid % (TILE / BLOCK)) * BLOCK;
}

// A block's sums over the depth at hand. They begin at zero: short sums lose less.
fn block_sums(block: vec2<u32>) -> mat4x4<f32> {
    var sums = mat4x4<f32>();
    for (var d = 0u; d < DEPTH; d++) {
        let a = d * TILE + block.x;
        let b = d * TILE + block.y;
        let y = vec4<f32>(b_tile[b], b_tile[b + 1u], b_tile[b + 2u], b_tile[b + 3u]);
        sums[0] += a_tile[a] * y;
        sums[1] += a_tile[a + 1u] * y;
        sums[2] += a_tile[a + 2u] * y;
        sums[3] += a_tile[a + 3u] * y;
    }
    return sums;
}
