// out = alpha · a · bᵀ for each of a batch, any strides: a workgroup makes a tile of one product, each invocation a
// block of it.

const TILE: u32 = 32u;
const BLOCK: u32 = 4u;
const DEPTH: u32 = 16u;

struct Params {
    // Products in both dimensions of the batch.
    batch: vec2<u32>,
    m: u32,
    n: u32,
    out_strides: vec4<u32>,
    a_strides: vec4<u32>,
    b_strides: vec4<u32>,
    k: u32,
    alpha: f32,
    out_first: u32,
    a_first: u32,
    b_first: u32,
}

// By depth, then row or column.
var<workgroup> a_tile: array<f32, TILE * DEPTH>;
var<workgroup> b_tile: array<f32, TILE * DEPTH>;

fn run(lid: u32, group: u32) {
    let across = (p.n + TILE - 1u) / TILE;
    let tiles = (p.m + TILE - 1u) / TILE * across;
    let product = group / tiles;
    if product >= p.batch.x * p.batch.y {
        return;
    }
    let m0 = group % tiles / across * TILE;
    let n0 = group % tiles % across * TILE;
    let i0 = product / p.batch.y;
    let i1 = product % p.batch.y;
    let a_at_0 = p.a_first + i0 * p.a_strides.x + i1 * p.a_strides.y;
    let b_at_0 = p.b_first + i0 * p.b_strides.x + i1 * p.b_strides.y;
    let row = lid / (TILE / BLOCK) * BLOCK;
    let col = lid % (TILE / BLOCK) * BLOCK;
    var sums = array<vec4<f32>, 4>();
    for (var k0 = 0u; k0 < p.k; k0 += DEPTH) {
        workgroupBarrier();
        for (var i = lid; i < TILE * DEPTH; i += WG) {
            let r = i / DEPTH;
            let c = k0 + i % DEPTH;
            var x = 0.0;
            var y = 0.0;
            if m0 + r < p.m && c < p.k {
                x = a_at(a_at_0 + (m0 + r) * p.a_strides.z + c * p.a_strides.w);
            }
            if n0 + r < p.n && c < p.k {
                y = b_at(b_at_0 + (n0 + r) * p.b_strides.z + c * p.b_strides.w);
            }
            a_tile[i % DEPTH * TILE + r] = x;
            b_tile[i % DEPTH * TILE + r] = y;
        }
        workgroupBarrier();
        // Each tile's sums begin at zero: short sums lose less.
        var part = array<vec4<f32>, 4>();
        for (var d = 0u; d < DEPTH; d++) {
            let x = d * TILE + row;
            let w = d * TILE + col;
            let y = vec4<f32>(b_tile[w], b_tile[w + 1u], b_tile[w + 2u], b_tile[w + 3u]);
            part[0] += a_tile[x] * y;
            part[1] += a_tile[x + 1u] * y;
            part[2] += a_tile[x + 2u] * y;
            part[3] += a_tile[x + 3u] * y;
        }
        sums[0] += part[0];
        sums[1] += part[1];
        sums[2] += part[2];
        sums[3] += part[3];
    }
    let to = p.out_first + i0 * p.out_strides.x + i1 * p.out_strides.y;
    for (var r = 0u; r < BLOCK; r++) {
        for (var c = 0u; c < BLOCK; c++) {
            let m = m0 + row + r;
            let n = n0 + col + c;
            if m < p.m && n < p.n {
                out_put(to + m * p.out_strides.z + n * p.out_strides.w, p.alpha * sums[r][c]);
            }
        }
    }
}
