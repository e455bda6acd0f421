// out[t] = table[ids[t]]: an invocation per word of out. TABLE is a file's part: how an element of the table is read.

struct Params {
    rows: u32,
    dim: u32,
    // The most words that a row has.
    units: u32,
    // The rows of the table that are bound, of how many.
    begin: u32,
    end: u32,
    vocab: u32,
    out_first: u32,
    out_stride: u32,
    ids_first: u32,
    // A plain table's first element; a packed one's first word.
    table_first: u32,
    // Elements, or words, of one row of the table.
    table_stride: u32,
    scales_first: u32,
    // See `packed_scale`.
    group: u32,
    scale_words: u32,
}

fn run(lid: u32, group: u32) {
    let i = group * WG + lid;
    let row = i / p.units;
    let unit = i % p.units;
    let start = p.out_first + row * p.out_stride;
    if row >= p.rows || unit >= out_units(start, p.dim) {
        return;
    }
    let id = ids_at(p.ids_first + row);
    if id < 0 || id >= i32(p.vocab) {
        // A missing row is zeros; the launch with the table's first rows writes it.
        if p.begin == 0u {
            out_put_unit(start, p.dim, unit, vec2<f32>(0.0));
        }
        return;
    }
    if u32(id) < p.begin || u32(id) >= p.end {
        return;
    }
    let c = out_cols(start, unit);
    let r = u32(id) - p.begin;
    out_put_unit(start, p.dim, unit, vec2<f32>(table_element(r, c.x), table_element(r, c.y)));
}
