// What all invocations of a workgroup have, reduced to one value that all get: by a tree in workgroup memory.

var<workgroup> reduce_words: array<u32, WG>;

fn sum_all(value: f32, lid: u32) -> f32 {
    workgroupBarrier();
    reduce_words[lid] = bitcast<u32>(value);
    for (var n = WG / 2u; n > 0u; n >>= 1u) {
        workgroupBarrier();
        if lid < n {
            let sum = bitcast<f32>(reduce_words[lid]) + bitcast<f32>(reduce_words[lid + n]);
            reduce_words[lid] = bitcast<u32>(sum);
        }
    }
    workgroupBarrier();
    return bitcast<f32>(reduce_words[0]);
}

fn max_all(value: u32, lid: u32) -> u32 {
    workgroupBarrier();
    reduce_words[lid] = value;
    for (var n = WG / 2u; n > 0u; n >>= 1u) {
        workgroupBarrier();
        if lid < n {
            reduce_words[lid] = max(reduce_words[lid], reduce_words[lid + n]);
        }
    }
    workgroupBarrier();
    return reduce_words[0];
}

fn count_all(value: u32, lid: u32) -> u32 {
    workgroupBarrier();
    reduce_words[lid] = value;
    for (var n = WG / 2u; n > 0u; n >>= 1u) {
        workgroupBarrier();
        if lid < n {
            reduce_words[lid] += reduce_words[lid + n];
        }
    }
    workgroupBarrier();
    return reduce_words[0];
}

@compute @workgroup_size(64)
fn main(
    @builtin(local_invocation_index) lid: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    run(lid, group.x + group.y * groups.x);
}
