// The table is a packed weight.

// q · scale for an integer q of at most 8 bits, exact also where the device takes numbers below the normal range for
// zero: only such a scale makes such a product.
fn scaled(q: f32, scale: f32) -> f32 {
    let bits = bitcast<u32>(scale);
    if (bits & 0x7f800000u) != 0u {
        return q * scale;
    }
    // A multiple of 2^-149, which is what the bits of the smallest numbers count.
    let n = u32(abs(q)) * (bits & 0x7fffffu);
    let magnitude = select(n, bitcast<u32>(f32(n)) - (149u << 23u), n >= 0x800000u);
    return bitcast<f32>(magnitude | ((bits ^ bitcast<u32>(q)) & 0x80000000u));
}

fn table_element(r: u32, c: u32) -> f32 {
    let scale = packed_scale(p.scales_first, r, c, p.group, p.scale_words);
    let x = packed_element(p.table_first + r * p.table_stride, c);
    if FORMAT < 3u {
        return x;
    }
    return scaled(x, scale);
}
