// out = exp(s − max) / Σ exp(s − max), s = scale · x, over the first columns, as many as the row sees: a workgroup
// per row.

struct Params {
    rows: u32,
    // Rows in each of the batch.
    height: u32,
    cols: u32,
    scale: f32,
    out_first: u32,
    out_stride: u32,
    out_batch_stride: u32,
    x_first: u32,
    x_stride: u32,
    x_batch_stride: u32,
    // 3: no mask.
    mask: u32,
    q_range_first: u32,
    kv_len_first: u32,
    prefix_first: u32,
}

// Columns that row r of its batch sees.
fn seen(r: u32) -> u32 {
    if p.mask == 3u {
        return p.cols;
    }
    let start = q_range_at(p.q_range_first);
    let end = q_range_at(p.q_range_first + 1u);
    if i32(r) < start || i32(r) >= end {
        return 0u;
    }
    let kv_len = kv_len_at(p.kv_len_first);
    let n = visible(p.mask, kv_len - end + i32(r), kv_len, prefix_at(p.prefix_first));
    return u32(clamp(n, 0, i32(p.cols)));
}

fn run(lid: u32, group: u32) {
    if group >= p.rows {
        return;
    }
    let batch = group / p.height;
    let r = group % p.height;
    let start = p.out_first + batch * p.out_batch_stride + r * p.out_stride;
    let source = p.x_first + batch * p.x_batch_stride + r * p.x_stride;
    let n = seen(r);
    // As integers, so that a NaN is the largest of all.
    var largest = 0u;
    for (var c = lid; c < n; c += WG) {
        largest = max(largest, ordered(p.scale * x_at(source + c)));
    }
    largest = max_all(largest, lid);
    // A row without columns, or with nothing but −∞, becomes zeros.
    let nothing = largest <= ORDERED_NEGATIVE_INFINITY;
    let most = unordered(largest);
    var sum = 0.0;
    for (var c = lid; c < n; c += WG) {
        sum += exp_of(p.scale * x_at(source + c) - most);
    }
    sum = sum_all(sum, lid);
    for (var unit = lid; unit < out_units(start, p.cols); unit += WG) {
        let c = out_cols(start, unit);
        let e = vec2<f32>(
            exp_of(p.scale * x_at(source + c.x) - most),
            exp_of(p.scale * x_at(source + c.y) - most),
        ) / sum;
        let hidden = vec2<bool>(nothing || c.x >= n, nothing || c.y >= n);
        out_put_unit(start, p.cols, unit, select(e, vec2<f32>(0.0), hidden));
    }
}
