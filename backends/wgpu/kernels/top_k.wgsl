// The k largest elements of each row in order: a workgroup per row finds the smallest of them by bisection, collects
// them in the workspace, and sorts them there.

struct Params {
    rows: u32,
    cols: u32,
    k: u32,
    // k filled up to a power of two: entries of a row in the workspace, a key and an index each.
    entries: u32,
    values_first: u32,
    indices_first: u32,
    x_first: u32,
    x_stride: u32,
    workspace_first: u32,
}

var<workgroup> collected: atomic<u32>;

fn swap_if_out_of_order(low: u32, high: u32, descending: bool) {
    let a = vec2<u32>(workspace[low], workspace[low + 1u]);
    let b = vec2<u32>(workspace[high], workspace[high + 1u]);
    // Larger keys first; of equal ones the lower index.
    let ordered_so = a.x > b.x || (a.x == b.x && a.y < b.y);
    if ordered_so != descending {
        workspace[low] = b.x;
        workspace[low + 1u] = b.y;
        workspace[high] = a.x;
        workspace[high + 1u] = a.y;
    }
}

fn run(lid: u32, group: u32) {
    if group >= p.rows {
        return;
    }
    let source = p.x_first + group * p.x_stride;
    // The largest key that k elements reach, bit by bit.
    var least = 0u;
    // Elements equal to it count below this index.
    var last = p.cols;
    if p.k < p.cols {
        for (var bit = 0x80000000u; bit > 0u; bit >>= 1u) {
            var reach = 0u;
            for (var c = lid; c < p.cols; c += WG) {
                reach += u32(ordered(x_at(source + c)) >= (least | bit));
            }
            if count_all(reach, lid) >= p.k {
                least |= bit;
            }
        }
        var above = 0u;
        for (var c = lid; c < p.cols; c += WG) {
            above += u32(ordered(x_at(source + c)) > least);
        }
        let ties = p.k - count_all(above, lid);
        // The largest index below which there are fewer than that many equal ones; one more is the end.
        last = 0u;
        for (var bit = 0x80000000u; bit > 0u; bit >>= 1u) {
            if (last | bit) < p.cols {
                var equal = 0u;
                for (var c = lid; c < (last | bit); c += WG) {
                    equal += u32(ordered(x_at(source + c)) == least);
                }
                if count_all(equal, lid) < ties {
                    last |= bit;
                }
            }
        }
        last += 1u;
    }
    let row = p.workspace_first + group * 2u * p.entries;
    if lid == 0u {
        atomicStore(&collected, 0u);
    }
    workgroupBarrier();
    for (var c = lid; c < p.cols; c += WG) {
        let key = ordered(x_at(source + c));
        if key > least || (key == least && c < last) {
            let at = row + 2u * atomicAdd(&collected, 1u);
            workspace[at] = key;
            workspace[at + 1u] = c;
        }
    }
    // No element has the key 0.
    for (var i = p.k + lid; i < p.entries; i += WG) {
        workspace[row + 2u * i] = 0u;
        workspace[row + 2u * i + 1u] = 0xffffffffu;
    }
    // Batcher's bitonic sort.
    for (var size = 2u; size <= p.entries; size <<= 1u) {
        for (var apart = size / 2u; apart > 0u; apart >>= 1u) {
            storageBarrier();
            for (var i = lid; i < p.entries / 2u; i += WG) {
                let low = i / apart * 2u * apart + i % apart;
                swap_if_out_of_order(row + 2u * low, row + 2u * (low + apart), (low & size) == 0u);
            }
        }
    }
    storageBarrier();
    let start = p.values_first + group * p.k;
    for (var unit = lid; unit < values_units(start, p.k); unit += WG) {
        let c = min(values_cols(start, unit), vec2<u32>(p.k - 1u));
        let x = vec2<f32>(
            x_at(source + workspace[row + 2u * c.x + 1u]),
            x_at(source + workspace[row + 2u * c.y + 1u]),
        );
        values_put_unit(start, p.k, unit, x);
    }
    for (var i = lid; i < p.k; i += WG) {
        indices_put(p.indices_first + group * p.k + i, i32(workspace[row + 2u * i + 1u]));
    }
}
