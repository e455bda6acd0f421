// Draws a token per row: a workgroup each. The order of tokens is that of their penalised logits' keys, then of their
// ids; a cut in it is a key and, among tokens of that key, an id. Cuts are found digit by digit: a pass over the row sums
// what has each digit, always in the same order.

struct Params {
    rows: u32,
    vocab: u32,
    capacity: u32,
    out_first: u32,
    logits_first: u32,
    logits_stride: u32,
    floats_first: u32,
    ints_first: u32,
    history_first: u32,
    history_stride: u32,
    history_len_first: u32,
    workspace_first: u32,
}

// Where the row's logits and weights begin in the workspace.
var<private> logits_at_0: u32;
var<private> weights_at_0: u32;

fn key_of(c: u32) -> u32 {
    return ordered(bitcast<f32>(workspace[logits_at_0 + c]));
}

fn weight_of(c: u32) -> f32 {
    return bitcast<f32>(workspace[weights_at_0 + c]);
}

// A token is before the cut when its key is larger, or equal and its id smaller than `end`.
struct Cut {
    key: u32,
    end: u32,
}

fn before(cut: Cut, c: u32) -> bool {
    let key = key_of(c);
    return key > cut.key || (key == cut.key && c < cut.end);
}

fn mass_before(cut: Cut, lid: u32) -> f32 {
    var mass = 0.0;
    for (var c = lid; c < p.vocab; c += WG) {
        if before(cut, c) {
            mass += weight_of(c);
        }
    }
    return sum_all(mass, lid);
}

// What a cut must reach: a number of tokens, or a mass (or more than it). Numbers up to 2^24 are exact as floats.
struct Goal {
    counts: bool,
    amount: f32,
    more: bool,
}

fn worth(goal: Goal, c: u32) -> f32 {
    if goal.counts {
        return 1.0;
    }
    return weight_of(c);
}

fn reaches(sum: f32, goal: Goal) -> bool {
    return sum > goal.amount || (sum == goal.amount && !goal.more);
}

const DIGITS: u32 = 16u;

// The shortest cut that reaches the goal, which the whole row does. Its last token is `end − 1`.
fn shortest(goal: Goal, lid: u32) -> Cut {
    // What is surely before the cut.
    var sum = 0.0;
    var key = 0u;
    for (var step = 0u; step < 8u; step++) {
        let shift = 28u - 4u * step;
        var digits = array<f32, DIGITS>();
        for (var c = lid; c < p.vocab; c += WG) {
            let k = key_of(c);
            // The digits before this one are those of the key so far.
            if ((k ^ key) >> shift) < DIGITS {
                digits[(k >> shift) % DIGITS] += worth(goal, c);
            }
        }
        // The lowest digit that any worth has, should roundings keep all of them from the goal.
        var chosen = 0u;
        var sum_above = sum;
        for (var d = DIGITS; d > 0u; d--) {
            let part = sum_all(digits[d - 1u], lid);
            if part > 0.0 {
                chosen = d - 1u;
                sum_above = sum;
                sum += part;
                if reaches(sum, goal) {
                    break;
                }
            }
        }
        sum = sum_above;
        key |= chosen << shift;
    }
    // The same for the ids of that key, which ascend.
    var id = 0u;
    for (var step = 0u; step < 8u; step++) {
        let shift = 28u - 4u * step;
        if (p.vocab - 1u) >> shift == 0u {
            continue;
        }
        var digits = array<f32, DIGITS>();
        for (var c = lid; c < p.vocab; c += WG) {
            if key_of(c) == key && ((c ^ id) >> shift) < DIGITS {
                digits[(c >> shift) % DIGITS] += worth(goal, c);
            }
        }
        var chosen = 0u;
        var sum_below = sum;
        for (var d = 0u; d < DIGITS; d++) {
            let part = sum_all(digits[d], lid);
            if part > 0.0 {
                chosen = d;
                sum_below = sum;
                sum += part;
                if reaches(sum, goal) {
                    break;
                }
            }
        }
        sum = sum_below;
        id |= chosen << shift;
    }
    return Cut(key, id + 1u);
}

// The upper half of a product.
fn high_product(a: u32, b: u32) -> u32 {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let cross = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
    let other = (a & 0xffffu) * (b >> 16u) + (cross & 0xffffu);
    return (a >> 16u) * (b >> 16u) + (cross >> 16u) + (other >> 16u);
}

// The first word of Philox4x32-10 with counter (step, 0, 0, 0), as a number in [0, 1).
fn uniform_number(seed: vec2<u32>, step: u32) -> f32 {
    var key = seed;
    var x = vec4<u32>(step, 0u, 0u, 0u);
    for (var i = 0u; i < 10u; i++) {
        x = vec4<u32>(
            high_product(x.z, 0xCD9E8D57u) ^ x.y ^ key.x,
            x.z * 0xCD9E8D57u,
            high_product(x.x, 0xD2511F53u) ^ x.w ^ key.y,
            x.x * 0xD2511F53u,
        );
        key += vec2<u32>(0x9E3779B9u, 0xBB67AE85u);
    }
    return f32(x.x >> 8u) * 5.9604644775390625e-8;
}

fn draw(row: u32, temperature: f32, largest: u32, lid: u32) -> u32 {
    let top_p = floats_at(p.floats_first + row * 3u + 1u);
    let top_k = bitcast<u32>(ints_at(p.ints_first + row * 4u));
    var kept = Cut(0u, p.vocab);
    if top_k > 0u && top_k < p.vocab {
        kept = shortest(Goal(true, f32(top_k), false), lid);
    }
    let most = unordered(largest);
    var sum = 0.0;
    for (var c = lid; c < p.vocab; c += WG) {
        var weight = 0.0;
        if before(kept, c) {
            weight = exp_of((bitcast<f32>(workspace[logits_at_0 + c]) - most) / temperature);
        }
        workspace[weights_at_0 + c] = bitcast<u32>(weight);
        sum += weight;
    }
    var mass = sum_all(sum, lid);
    if !(mass > 0.0) || (bitcast<u32>(mass) & 0x7fffffffu) >= 0x7f800000u {
        // No probability is a number: the last of the kept ones.
        var least = 0u;
        for (var c = lid; c < p.vocab; c += WG) {
            if before(kept, c) {
                least = max(least, ~key_of(c));
            }
        }
        least = ~max_all(least, lid);
        var last = 0u;
        for (var c = lid; c < p.vocab; c += WG) {
            if before(kept, c) && key_of(c) == least {
                last = max(last, c);
            }
        }
        return max_all(last, lid);
    }
    if top_p < 1.0 {
        kept = shortest(Goal(false, top_p * mass, false), lid);
        mass = mass_before(kept, lid);
    }
    let ints = p.ints_first + row * 4u;
    let seed = vec2<u32>(bitcast<u32>(ints_at(ints + 1u)), bitcast<u32>(ints_at(ints + 2u)));
    let u = uniform_number(seed, bitcast<u32>(ints_at(ints + 3u)));
    return shortest(Goal(false, u * mass, true), lid).end - 1u;
}

fn run(lid: u32, group: u32) {
    if group >= p.rows {
        return;
    }
    logits_at_0 = p.workspace_first + group * 2u * p.vocab;
    weights_at_0 = logits_at_0 + p.vocab;
    let source = p.logits_first + group * p.logits_stride;
    for (var c = lid; c < p.vocab; c += WG) {
        workspace[logits_at_0 + c] = bitcast<u32>(logits_at(source + c));
    }
    storageBarrier();
    let penalty = floats_at(p.floats_first + group * 3u + 2u);
    let len = u32(clamp(history_len_at(p.history_len_first + group), 0, i32(p.capacity)));
    for (var h = lid; h < len; h += WG) {
        let id = history_at(p.history_first + group * p.history_stride + h);
        if id >= 0 && id < i32(p.vocab) {
            // From the original, so that a token twice in the history is penalised once.
            let l = logits_at(source + u32(id));
            let penalised = select(l * penalty, l / penalty, l > 0.0);
            workspace[logits_at_0 + u32(id)] = bitcast<u32>(penalised);
        }
    }
    storageBarrier();
    var largest = 0u;
    for (var c = lid; c < p.vocab; c += WG) {
        largest = max(largest, key_of(c));
    }
    largest = max_all(largest, lid);
    let temperature = floats_at(p.floats_first + group * 3u);
    var token = 0xffffffffu;
    if temperature == 0.0 {
        for (var c = lid; c < p.vocab; c += WG) {
            if key_of(c) == largest {
                token = min(token, c);
            }
        }
        token = ~max_all(~token, lid);
    } else {
        token = draw(group, temperature, largest, lid);
    }
    if lid == 0u {
        out_put(p.out_first + group, i32(token));
    }
}
