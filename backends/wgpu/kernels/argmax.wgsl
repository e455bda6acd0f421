// The index of the largest element of each row, of equal ones the lowest: a workgroup per row.

struct Params {
    rows: u32,
    cols: u32,
    out_first: u32,
    x_first: u32,
    x_stride: u32,
}

fn run(lid: u32, group: u32) {
    if group >= p.rows {
        return;
    }
    let source = p.x_first + group * p.x_stride;
    var largest = 0u;
    for (var c = lid; c < p.cols; c += WG) {
        largest = max(largest, ordered(x_at(source + c)));
    }
    largest = max_all(largest, lid);
    var first = 0xffffffffu;
    for (var c = lid; c < p.cols; c += WG) {
        if ordered(x_at(source + c)) == largest {
            first = min(first, c);
        }
    }
    first = ~max_all(~first, lid);
    if lid == 0u {
        out_put(p.out_first + group, i32(first));
    }
}
