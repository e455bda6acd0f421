// out = softmax(scale · q · kᵀ) · v over the pages of the token's sequence. What both kernels use: parameters, what a
// token sees, where a slot lies.

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

// How many slots of sequence s the token sees, always the first ones; 0 when it is not of that sequence.
fn seen_of(token: u32, s: u32) -> u32 {
    let start = q_start_at(p.q_start_first + s);
    let end = q_start_at(p.q_start_first + s + 1u);
    if i32(token) < start || i32(token) >= end {
        return 0u;
    }
    let kv_len = kv_len_at(p.kv_len_first + s);
    let position = kv_len + i32(token) - end;
    let n = visible(p.mask, position, kv_len, prefix_at(p.prefix_first + s));
    return u32(clamp(n, 0, i32(p.max_pages * p.page_size)));
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
