// At most FEW rows of x: a workgroup makes COLS columns of out, LANES invocations each, which take turns at blocks of
// eight columns of the weight.

const FEW: u32 = 4u;
const LANES: u32 = 8u;
const COLS: u32 = WG / LANES;

var<workgroup> parts: array<f32, WG * FEW>;

fn eight_of_x(row: u32, e: u32) -> Eight {
    let at = p.x_first + row * p.x_stride + 8u * e;
    if 8u * e + 8u <= p.k {
        return Eight(
            vec4<f32>(x_at(at), x_at(at + 1u), x_at(at + 2u), x_at(at + 3u)),
            vec4<f32>(x_at(at + 4u), x_at(at + 5u), x_at(at + 6u), x_at(at + 7u)),
        );
    }
    var last = array<f32, 8>();
    for (var i = 0u; i < 8u; i++) {
        if 8u * e + i < p.k {
            last[i] = x_at(at + i);
        }
    }
    return Eight(
        vec4<f32>(last[0], last[1], last[2], last[3]),
        vec4<f32>(last[4], last[5], last[6], last[7]),
    );
}

fn run(lid: u32, group: u32) {
    let col = group * COLS + lid / LANES;
    var sums = array<f32, FEW>();
    if col < p.n {
        let row = p.data_first + col * p.row_words;
        for (var e = lid % LANES; e < (p.k + 7u) / 8u; e += LANES) {
            let w = packed_eight(row, e);
            let scale = packed_scale(p.scales_first, col, 8u * e, p.group, p.scale_words);
            let low = w.low * scale;
            let high = w.high * scale;
            for (var m = 0u; m < p.m; m++) {
                let x = eight_of_x(m, e);
                let products = x.low * low + x.high * high;
                sums[m] += (products.x + products.y) + (products.z + products.w);
            }
        }
    }
    for (var m = 0u; m < FEW; m++) {
        parts[m * WG + lid] = sums[m];
    }
    workgroupBarrier();
    for (var i = lid; i < p.m * COLS; i += WG) {
        let m = i / COLS;
        let c = group * COLS + i % COLS;
        if c < p.n {
            var sum = 0.0;
            for (var lane = 0u; lane < LANES; lane++) {
                sum += parts[m * WG + i % COLS * LANES + lane];
            }
            out_put(p.out_first + m * p.out_stride + c, finish(sum, m, c));
        }
    }
}
