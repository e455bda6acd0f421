// out = softmax(scale · q · kᵀ) · v over the pages of the token's sequence: a workgroup per token and head, which
// takes WG slots at a time and keeps a running maximum.

// The longest head.
const HEAD: u32 = 256u;

struct Params {
    tokens: u32,
    heads: u32,
    // Query heads per key-value head.
    group: u32,
    kv_heads: u32,
    head_dim: u32,
    pages: u32,
    page_size: u32,
    scale: f32,
    mask: u32,
    sequences: u32,
    max_pages: u32,
    out_first: u32,
    out_token: u32,
    out_head: u32,
    q_first: u32,
    q_token: u32,
    q_head: u32,
    k_first: u32,
    v_first: u32,
    block_table_first: u32,
    q_start_first: u32,
    kv_len_first: u32,
    prefix_first: u32,
}

const NO_ROW: u32 = 0xffffffffu;

// The query, then the result.
var<workgroup> head_row: array<f32, HEAD>;
// Of the slots at hand: weights, and where their rows begin.
var<workgroup> weights: array<f32, WG>;
var<workgroup> rows: array<u32, WG>;

// The first slots that the token sees, how many, and in `sequence` of which sequence.
fn seen(token: u32, sequence: ptr<function, u32>) -> u32 {
    for (var s = 0u; s < p.sequences; s++) {
        let start = q_start_at(p.q_start_first + s);
        let end = q_start_at(p.q_start_first + s + 1u);
        if i32(token) >= start && i32(token) < end {
            *sequence = s;
            let kv_len = kv_len_at(p.kv_len_first + s);
            let position = kv_len + i32(token) - end;
            let n = visible(p.mask, position, kv_len, prefix_at(p.prefix_first + s));
            return u32(clamp(n, 0, i32(p.max_pages * p.page_size)));
        }
    }
    return 0u;
}

// Where the row of a slot begins, counted from the first page.
fn row_of(sequence: u32, slot: u32, head: u32) -> u32 {
    let page = block_table_at(p.block_table_first + sequence * p.max_pages + slot / p.page_size);
    if page < 0 || page >= i32(p.pages) {
        return NO_ROW;
    }
    let row = (u32(page) * p.kv_heads + head) * p.page_size + slot % p.page_size;
    return row * p.head_dim;
}

fn score(row: u32) -> f32 {
    let at = p.k_first + row;
    var sums = vec4<f32>();
    var d = 0u;
    for (; d + 4u <= p.head_dim; d += 4u) {
        let q = vec4<f32>(head_row[d], head_row[d + 1u], head_row[d + 2u], head_row[d + 3u]);
        sums += q * vec4<f32>(
            k_pages_at(at + d),
            k_pages_at(at + d + 1u),
            k_pages_at(at + d + 2u),
            k_pages_at(at + d + 3u),
        );
    }
    for (; d < p.head_dim; d++) {
        sums.x += head_row[d] * k_pages_at(at + d);
    }
    return p.scale * ((sums.x + sums.y) + (sums.z + sums.w));
}

fn run(lid: u32, group: u32) {
    let token = group / p.heads;
    let head = group % p.heads;
    if token >= p.tokens {
        return;
    }
    let q = p.q_first + token * p.q_token + head * p.q_head;
    for (var d = lid; d < p.head_dim; d += WG) {
        head_row[d] = q_at(q + d);
    }
    var sequence = 0u;
    let n = seen(token, &sequence);
    workgroupBarrier();
    // The running maximum begins below every number but −∞.
    var most = LOWEST;
    var total = 0.0;
    var sums = array<f32, 4>();
    for (var first = 0u; first < n; first += WG) {
        var row = NO_ROW;
        if first + lid < n {
            row = row_of(sequence, first + lid, head / p.group);
        }
        var s = LOWEST;
        if row != NO_ROW {
            s = score(row);
        }
        // As integers, so that a NaN is the largest of all.
        let next = unordered(max_all(max(ordered(s), ordered(most)), lid));
        let weight = select(0.0, exp_of(s - next), row != NO_ROW);
        weights[lid] = weight;
        rows[lid] = row;
        let fade = exp_of(most - next);
        most = next;
        // Its barriers order the arrays above, too.
        total = total * fade + sum_all(weight, lid);
        for (var i = 0u; i < 4u; i++) {
            let d = i * WG + lid;
            if d < p.head_dim {
                var sum = 0.0;
                for (var j = 0u; j < min(WG, n - first); j++) {
                    if rows[j] != NO_ROW {
                        sum += weights[j] * v_pages_at(p.v_first + rows[j] + d);
                    }
                }
                sums[i] = sums[i] * fade + sum;
            }
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < 4u; i++) {
        let d = i * WG + lid;
        if d < p.head_dim {
            // A token that sees nothing gets zeros.
            head_row[d] = select(sums[i] / total, 0.0, total == 0.0);
        }
    }
    workgroupBarrier();
    let start = p.out_first + token * p.out_token + head * p.out_head;
    for (var unit = lid; unit < out_units(start, p.head_dim); unit += WG) {
        let c = min(out_cols(start, unit), vec2<u32>(HEAD - 1u));
        out_put_unit(start, p.head_dim, unit, vec2<f32>(head_row[c.x], head_row[c.y]));
    }
}
