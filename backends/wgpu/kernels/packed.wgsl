// Packed weights: rows of `data`, each a multiple of four words; FORMAT is 0 f32, 1 f16, 2 bf16, 3 int8, 4 int4, of
// which column c of eight lies in bits 4c of its word. Scales of quantised rows in `scales`: one f32 per row, or one
// f16 per group, the groups of a row filled up to whole words.

fn packed_word(i: u32) -> u32 {
    return data[i / 4u][i % 4u];
}

// The element of column c in the row that begins at word `row`, without its scale.
fn packed_element(row: u32, c: u32) -> f32 {
    switch FORMAT {
        case 0u: {
            return bitcast<f32>(packed_word(row + c));
        }
        case 1u: {
            return f16_decode(packed_word(row + c / 2u) >> (c % 2u * 16u));
        }
        case 2u: {
            return bf16_decode(packed_word(row + c / 2u) >> (c % 2u * 16u));
        }
        case 3u: {
            return f32(extractBits(bitcast<i32>(packed_word(row + c / 4u)), c % 4u * 8u, 8u));
        }
        default: {
            return f32(extractBits(bitcast<i32>(packed_word(row + c / 8u)), c % 8u * 4u, 4u));
        }
    }
}

// The scale of column c of row r; `group` is 0 when a row has one, `words` are those of a row's scales.
fn packed_scale(first: u32, r: u32, c: u32, group: u32, words: u32) -> f32 {
    if FORMAT < 3u {
        return 1.0;
    }
    if group == 0u {
        return bitcast<f32>(scales[first + r]);
    }
    let g = c / group;
    return f16_decode(scales[first + r * words + g / 2u] >> (g % 2u * 16u));
}

struct Eight {
    low: vec4<f32>,
    high: vec4<f32>,
}

fn nibbles(word: u32) -> vec4<f32> {
    return vec4<f32>((vec4<i32>(bitcast<i32>(word)) << vec4<u32>(28u, 24u, 20u, 16u)) >> vec4<u32>(28u));
}

// Columns 8e to 8e + 7 of the row that begins at word `row`, without their scale. Rows are filled up with zeros to eight
// columns at least.
fn packed_eight(row: u32, e: u32) -> Eight {
    switch FORMAT {
        case 0u: {
            let i = row / 4u + 2u * e;
            return Eight(bitcast<vec4<f32>>(data[i]), bitcast<vec4<f32>>(data[i + 1u]));
        }
        case 1u: {
            let w = data[row / 4u + e];
            return Eight(
                vec4<f32>(f16_decode(w.x), f16_decode(w.x >> 16u), f16_decode(w.y), f16_decode(w.y >> 16u)),
                vec4<f32>(f16_decode(w.z), f16_decode(w.z >> 16u), f16_decode(w.w), f16_decode(w.w >> 16u)),
            );
        }
        case 2u: {
            let w = data[row / 4u + e];
            let low = vec4<u32>(w.x << 16u, w.x & 0xffff0000u, w.y << 16u, w.y & 0xffff0000u);
            let high = vec4<u32>(w.z << 16u, w.z & 0xffff0000u, w.w << 16u, w.w & 0xffff0000u);
            return Eight(bitcast<vec4<f32>>(low), bitcast<vec4<f32>>(high));
        }
        case 3u: {
            let i = row + 2u * e;
            return Eight(vec4<f32>(unpack4xI8(packed_word(i))), vec4<f32>(unpack4xI8(packed_word(i + 1u))));
        }
        default: {
            let w = packed_word(row + e);
            return Eight(nibbles(w), nibbles(w >> 16u));
        }
    }
}
