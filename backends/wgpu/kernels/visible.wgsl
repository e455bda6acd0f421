// Which slots of its sequence a token sees: always the first so many, whatever the mask.

// The token is at `position` of a sequence of `kv_len` slots; MASK is 0 causal, 1 prefix, 2 full.
fn visible(mask: u32, position: i32, kv_len: i32, prefix: i32) -> i32 {
    switch mask {
        case 0u: {
            return min(position + 1, kv_len);
        }
        case 1u: {
            return min(max(position + 1, prefix), kv_len);
        }
        default: {
            return kv_len;
        }
    }
}
