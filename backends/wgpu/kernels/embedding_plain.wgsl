// The table is a view of elements.

fn table_element(r: u32, c: u32) -> f32 {
    return table_at(p.table_first + r * p.table_stride + c);
}
