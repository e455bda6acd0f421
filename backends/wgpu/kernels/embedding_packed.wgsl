// The table is a packed weight.

fn table_element(r: u32, c: u32) -> f32 {
    let scale = packed_scale(p.scales_first, r, c, p.group, p.scale_words);
    return packed_element(p.table_first + r * p.table_stride, c) * scale;
}
