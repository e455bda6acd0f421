// Few rows of q: a workgroup per token and head, which takes WG slots at a time and keeps a running maximum.

// The longest head.
const HEAD: u32 = 256u;

// The query, then the result.
var<workgroup> head_row: array<f32, HEAD>;
// Of the slots at hand: weights, and where their rows begin.
var<workgroup> weights: array<f32, WG>;
var<workgroup> rows: array<u32, WG>;

// How many slots the token sees, and in `sequence` of which sequence.
fn seen(token: u32, sequence: ptr<function, u32>) -> u32 {
    for (var s = 0u; s < p.sequences; s++) {
        let n = seen_of(token, s);
        if n > 0u {
            *sequence = s;
            return n;
        }
    }
    return 0u;
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
