// Many rows of x: a workgroup makes a tile of out, each invocation a block of it, from tiles of x and of the weight in
// workgroup memory.

// A side of the tile, of an invocation's block, and the depth that is in workgroup memory at a time.
const TILE: u32 = 32u;
const BLOCK: u32 = 4u;
const DEPTH: u32 = 16u;
const EIGHTS: u32 = DEPTH / 8u;

// By depth, then row or column.
var<workgroup> x_tile: array<f32, TILE * DEPTH>;
var<workgroup> w_tile: array<f32, TILE * DEPTH>;

fn run(lid: u32, group: u32) {
    let across = (p.n + TILE - 1u) / TILE;
    let m0 = group / across * TILE;
    let n0 = group % across * TILE;
    let row = lid / (TILE / BLOCK) * BLOCK;
    let col = lid % (TILE / BLOCK) * BLOCK;
    var sums = array<vec4<f32>, 4>();
    for (var k0 = 0u; k0 < p.k; k0 += DEPTH) {
        workgroupBarrier();
        for (var i = lid; i < TILE * DEPTH; i += WG) {
            let m = m0 + i / DEPTH;
            let c = k0 + i % DEPTH;
            var x = 0.0;
            if m < p.m && c < p.k {
                x = x_at(p.x_first + m * p.x_stride + c);
            }
            x_tile[i % DEPTH * TILE + i / DEPTH] = x;
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
                w_tile[at + j * TILE] = low[j];
                w_tile[at + (j + 4u) * TILE] = high[j];
            }
        }
        workgroupBarrier();
        // Each tile's sums begin at zero: short sums lose less.
        var part = array<vec4<f32>, 4>();
        for (var d = 0u; d < DEPTH; d++) {
            let x = d * TILE + row;
            let w = d * TILE + col;
            let y = vec4<f32>(w_tile[w], w_tile[w + 1u], w_tile[w + 2u], w_tile[w + 3u]);
            part[0] += x_tile[x] * y;
            part[1] += x_tile[x + 1u] * y;
            part[2] += x_tile[x + 2u] * y;
            part[3] += x_tile[x + 3u] * y;
        }
        sums[0] += part[0];
        sums[1] += part[1];
        sums[2] += part[2];
        sums[3] += part[3];
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
