// out = alpha · a · bᵀ for each of a batch, any strides: a workgroup makes a tile of one product, each invocation a
// block of it.

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
    let block = block_of(lid);
    let row = block.x;
    let col = block.y;
    var sums = mat4x4<f32>();
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
        sums += block_sums(block);
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
