// Many rows of x: a workgroup makes a tile of out, each invocation a block of it, from tiles of x and of the weight in
// workgroup memory.

const EIGHTS: u32 = DEPTH / 8u;

fn run(lid: u32, group: u32) {
    let across = (p.n + TILE - 1u) / TILE;
    let m0 = group / across * TILE;
    let n0 = group % across * TILE;
    let block = block_of(lid);
    let row = block.x;
    let col = block.y;
    var sums = mat4x4<f32>();
    for (var k0 = 0u; k0 < p.k; k0 += DEPTH) {
        workgroupBarrier();
        for (var i = lid; i < TILE * DEPTH; i += WG) {
            let m = m0 + i / DEPTH;
            let c = k0 + i % DEPTH;
            var x = 0.0;
            if m < p.m && c < p.k {
                x = x_at(p.x_first + m * p.x_stride + c);
            }
            a_tile[i % DEPTH * TILE + i / DEPTH] = x;
        }
        for (var i = lid; i < TILE * EIGHTS; i += WG) {
            let n = n0 + i / EIGHTS;
            let c = k0 + i % EIGHTS * 8u;
            var low = vec4<f32>();
            var high = vec4<f32>();
            if n < p.n && c < p.k {
                let w = packed_eight(p.data_first + n * p.row_words, c / 8u);
                let scale = packed_scale(p.scales_first, n, c, p.group, p.scale_words);
                low = w.low * scale;
                high = w.high * scale;
            }
            let at = i % EIGHTS * 8u * TILE + i / EIGHTS;
            for (var j = 0u; j < 4u; j++) {
                b_tile[at + j * TILE] = low[j];
                b_tile[at + (j + 4u) * TILE] = high[j];
            }
        }
        workgroupBarrier();
        sums += block_sums(block);
    }
    if n0 + col >= p.n {
        return;
    }
    let n = min(p.n - (n0 + col), BLOCK);
    for (var r = 0u; r < BLOCK; r++) {
        let m = m0 + row + r;
        if m < p.m {
            let sum = sums[r];
            let start = p.out_first + m * p.out_stride + n0 + col;
            for (var unit = 0u; unit < out_units(start, n); unit++) {
                let c = out_cols(start, unit);
                let values = vec2<f32>(
                    finish(sum[min(c.x, 3u)], m, n0 + col + c.x),
                    finish(sum[min(c.y, 3u)], m, n0 + col + c.y),
                );
                out_put_unit(start, n, unit, values);
            }
        }
    }
}
