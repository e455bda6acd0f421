// Many rows of q: a workgroup takes ROWS tokens of a head and SLOTS slots at a time, whose keys and then values all its
// rows read from workgroup memory, and keeps a running maximum for each row. HEAD is head_dim in fours.

// Distance of rows in workgroup memory: not a power of two, so that neighbours lie in different banks.
const PITCH: u32 = HEAD + 1u;
// Invocation lid scores slot lid % SLOTS for every SCORE_LANES-th row from lid / SLOTS on.
const SCORE_LANES: u32 = min(WG / SLOTS, ROWS);
const SCORE_ROWS: u32 = ROWS / SCORE_LANES;
// And sums the four columns lid % HEAD of every SUM_LANES-th row from lid / HEAD on.
const SUM_LANES: u32 = min(WG / HEAD, ROWS);
const SUM_ROWS: u32 = (ROWS + SUM_LANES - 1u) / SUM_LANES;

// The queries, then the results.
var<workgroup> q_tile: array<vec4<f32>, ROWS * PITCH>;
// Keys, then values, of the slots at hand; where their rows begin.
var<workgroup> kv_tile: array<vec4<f32>, SLOTS * PITCH>;
var<workgroup> rows: array<u32, SLOTS>;
// Scores, then weights.
var<workgroup> weights: array<f32, ROWS * SLOTS>;
// Of each row: slots that it sees of the sequence at hand, running maximum, what earlier sums fade by, sum of weights.
var<workgroup> counts: array<u32, ROWS>;
var<workgroup> most: array<f32, ROWS>;
var<workgroup> fades: array<f32, ROWS>;
var<workgroup> totals: array<f32, ROWS>;

// Four elements of a row from column d on; zeros behind its end.
fn q_four(at: u32, d: u32) -> vec4<f32> {
    var four = vec4<f32>();
    for (var i = 0u; i < min(4u, p.head_dim - d); i++) {
        four[i] = q_at(at + d + i);
    }
    return four;
}

fn k_four(at: u32, d: u32) -> vec4<f32> {
    if d + 4u <= p.head_dim {
        let i = at + d;
        return vec4<f32>(k_pages_at(i), k_pages_at(i + 1u), k_pages_at(i + 2u), k_pages_at(i + 3u));
    }
    var four = vec4<f32>();
    for (var i = 0u; d + i < p.head_dim; i++) {
        four[i] = k_pages_at(at + d + i);
    }
    return four;
}

fn v_four(at: u32, d: u32) -> vec4<f32> {
    if d + 4u <= p.head_dim {
        let i = at + d;
        return vec4<f32>(v_pages_at(i), v_pages_at(i + 1u), v_pages_at(i + 2u), v_pages_at(i + 3u));
    }
    var four = vec4<f32>();
    for (var i = 0u; d + i < p.head_dim; i++) {
        four[i] = v_pages_at(at + d + i);
    }
    return four;
}

fn run(lid: u32, group: u32) {
    let tile = group / p.heads;
    let head = group % p.heads;
    let token0 = tile * ROWS;
    if token0 >= p.tokens {
        return;
    }
    let tokens = min(ROWS, p.tokens - token0);
    for (var i = lid; i < ROWS * HEAD; i += WG) {
        let r = i / HEAD;
        var four = vec4<f32>();
        if r < tokens {
            four = q_four(p.q_first + (token0 + r) * p.q_token + head * p.q_head, i % HEAD * 4u);
        }
        q_tile[r * PITCH + i % HEAD] = four;
    }
    if lid < ROWS {
        // The running maximum begins below every number but −∞.
        most[lid] = LOWEST;
        totals[lid] = 0.0;
    }
    let slot = lid % SLOTS;
    let score_row = lid / SLOTS;
    let scores_some = score_row < SCORE_LANES;
    let column = lid % HEAD;
    let sum_row = lid / HEAD;
    var sums = array<vec4<f32>, SUM_ROWS>();
    // Tokens of a tile may be of several sequences.
    for (var s = 0u; s < p.sequences; s++) {
        workgroupBarrier();
        if lid < ROWS {
            counts[lid] = select(0u, seen_of(token0 + lid, s), lid < tokens);
        }
        workgroupBarrier();
        var n = 0u;
        for (var r = 0u; r < ROWS; r++) {
            n = max(n, counts[r]);
        }
        for (var first = 0u; first < n; first += SLOTS) {
            workgroupBarrier();
            if lid < SLOTS {
                var row = NO_ROW;
                if first + lid < n {
                    row = row_of(s, first + lid, head / p.group);
                }
                rows[lid] = row;
            }
            workgroupBarrier();
            for (var i = lid; i < SLOTS * HEAD; i += WG) {
                let row = rows[i / HEAD];
                var four = vec4<f32>();
                if row != NO_ROW {
                    four = k_four(p.k_first + row, i % HEAD * 4u);
                }
                kv_tile[i / HEAD * PITCH + i % HEAD] = four;
            }
            workgroupBarrier();
            var scores = array<vec4<f32>, SCORE_ROWS>();
            for (var d = 0u; d < select(0u, HEAD, scores_some); d++) {
                let k = kv_tile[slot * PITCH + d];
                for (var i = 0u; i < SCORE_ROWS; i++) {
                    scores[i] += k * q_tile[(score_row + i * SCORE_LANES) * PITCH + d];
                }
            }
            let is_there = rows[slot] != NO_ROW;
            for (var i = 0u; i < select(0u, SCORE_ROWS, scores_some); i++) {
                let r = score_row + i * SCORE_LANES;
                let score = p.scale * ((scores[i].x + scores[i].y) + (scores[i].z + scores[i].w));
                let sees = is_there && first + slot < counts[r];
                weights[r * SLOTS + slot] = select(LOWEST, score, sees);
            }
            workgroupBarrier();
            if lid < ROWS {
                // As integers, so that a NaN is the largest of all.
                var next = ordered(most[lid]);
                for (var j = 0u; j < SLOTS; j++) {
                    next = max(next, ordered(weights[lid * SLOTS + j]));
                }
                fades[lid] = exp_of(most[lid] - unordered(next));
                most[lid] = unordered(next);
            }
            workgroupBarrier();
            for (var i = 0u; i < select(0u, SCORE_ROWS, scores_some); i++) {
                let r = score_row + i * SCORE_LANES;
                let at = r * SLOTS + slot;
                let sees = is_there && first + slot < counts[r];
                weights[at] = select(0.0, exp_of(weights[at] - most[r]), sees);
            }
            for (var i = lid; i < SLOTS * HEAD; i += WG) {
                let row = rows[i / HEAD];
                var four = vec4<f32>();
                if row != NO_ROW {
                    four = v_four(p.v_first + row, i % HEAD * 4u);
                }
                kv_tile[i / HEAD * PITCH + i % HEAD] = four;
            }
            workgroupBarrier();
            if lid < ROWS {
                var total = totals[lid] * fades[lid];
                for (var j = 0u; j < SLOTS; j++) {
                    total += weights[lid * SLOTS + j];
                }
                totals[lid] = total;
            }
            if sum_row < SUM_LANES {
                for (var i = 0u; i < SUM_ROWS; i++) {
                    let r = min(sum_row + i * SUM_LANES, ROWS - 1u);
                    // What a row does not see may be no number.
                    let end = max(counts[r], first) - first;
                    var sum = vec4<f32>();
                    for (var j = 0u; j < min(SLOTS, end); j++) {
                        sum += weights[r * SLOTS + j] * kv_tile[j * PITCH + column];
                    }
                    sums[i] = sums[i] * fades[r] + sum;
                }
            }
        }
    }
    workgroupBarrier();
    if sum_row < SUM_LANES {
        for (var i = 0u; i < SUM_ROWS; i++) {
            let r = sum_row + i * SUM_LANES;
            if r < ROWS {
                // A token that sees nothing gets zeros.
                let total = totals[r];
                q_tile[r * PITCH + column] = select(sums[i] / total, vec4<f32>(), total == 0.0);
            }
        }
    }
    workgroupBarrier();
    for (var r = 0u; r < tokens; r++) {
        let start = p.out_first + (token0 + r) * p.out_token + head * p.out_head;
        for (var unit = lid; unit < out_units(start, p.head_dim); unit += WG) {
            let c = min(out_cols(start, unit), vec2<u32>(HEAD * 4u - 1u));
            let x = q_tile[r * PITCH + c.x / 4u][c.x % 4u];
            let y = q_tile[r * PITCH + c.y / 4u][c.y % 4u];
            out_put_unit(start, p.head_dim, unit, vec2<f32>(x, y));
        }
    }
}
