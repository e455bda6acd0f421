// Rows of keys and values go to their slots in the pages: an invocation per word of a row.

struct Params {
    tokens: u32,
    kv_heads: u32,
    head_dim: u32,
    page_size: u32,
    // The most words that a row has.
    units: u32,
    // The slots that the bound pages hold.
    slot_begin: u32,
    slot_end: u32,
    k_pages_first: u32,
    v_pages_first: u32,
    k_first: u32,
    k_token: u32,
    k_head: u32,
    v_first: u32,
    v_token: u32,
    v_head: u32,
    slots_first: u32,
}

fn run(lid: u32, group: u32) {
    var i = group * WG + lid;
    let unit = i % p.units;
    i /= p.units;
    let head = i % p.kv_heads;
    i /= p.kv_heads;
    let values = i % 2u == 1u;
    let token = i / 2u;
    if token >= p.tokens {
        return;
    }
    let slot = slots_at(p.slots_first + token);
    if slot < i32(p.slot_begin) || slot >= i32(p.slot_end) {
        return;
    }
    let s = u32(slot) - p.slot_begin;
    let row = (s / p.page_size * p.kv_heads + head) * p.page_size + s % p.page_size;
    if values {
        let start = p.v_pages_first + row * p.head_dim;
        let source = p.v_first + token * p.v_token + head * p.v_head;
        if unit < v_pages_units(start, p.head_dim) {
            let c = v_pages_cols(start, unit);
            let x = vec2<f32>(v_at(source + c.x), v_at(source + c.y));
            v_pages_put_unit(start, p.head_dim, unit, x);
        }
    } else {
        let start = p.k_pages_first + row * p.head_dim;
        let source = p.k_first + token * p.k_token + head * p.k_head;
        if unit < k_pages_units(start, p.head_dim) {
            let c = k_pages_cols(start, unit);
            let x = vec2<f32>(k_at(source + c.x), k_at(source + c.y));
            k_pages_put_unit(start, p.head_dim, unit, x);
        }
    }
}
