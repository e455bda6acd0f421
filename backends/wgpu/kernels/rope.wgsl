// Pairs (x0, x1) become (x0·cos − x1·sin, x1·cos + x0·sin); elements beyond are copied: an invocation per pair or
// copied element.

struct Params {
    tokens: u32,
    heads: u32,
    streams: u32,
    // Elements of a head that belong to one stream, and pairs that are rotated in it.
    part: u32,
    pairs: u32,
    // 0: pairs (2i, 2i + 1); 1: pairs (i, i + pairs).
    split: u32,
    out_first: u32,
    out_token: u32,
    out_head: u32,
    x_first: u32,
    x_token: u32,
    x_head: u32,
    positions_first: u32,
    positions_stride: u32,
    cos_first: u32,
    sin_first: u32,
    max_positions: u32,
    in_place: u32,
}

fn run(lid: u32, group: u32) {
    let items = p.part - p.pairs;
    var i = group * WG + lid;
    let item = i % items;
    i /= items;
    let stream = i % p.streams;
    i /= p.streams;
    let head = i % p.heads;
    let token = i / p.heads;
    if token >= p.tokens {
        return;
    }
    let to = p.out_first + token * p.out_token + head * p.out_head + stream * p.part;
    let source = p.x_first + token * p.x_token + head * p.x_head + stream * p.part;
    if item >= p.pairs {
        if p.in_place == 0u {
            let c = item + p.pairs;
            out_put(to + c, x_at(source + c));
        }
        return;
    }
    let a = select(2u * item, item, p.split == 1u);
    let b = select(2u * item + 1u, item + p.pairs, p.split == 1u);
    let at = positions_at(p.positions_first + stream * p.positions_stride + token);
    let row = u32(clamp(at, 0, i32(p.max_positions) - 1)) * p.pairs + item;
    let c = cos_at(p.cos_first + row);
    let s = sin_at(p.sin_first + row);
    let x0 = x_at(source + a);
    let x1 = x_at(source + b);
    out_put(to + a, x0 * c - x1 * s);
    out_put(to + b, x1 * c + x0 * s);
}
