// What all invocations of a workgroup have, reduced to one value that all get: by sub-groups of whatever size, then
// over their results in workgroup memory.

var<workgroup> reduce_words: array<u32, WG>;
var<private> subgroup: u32;
var<private> subgroups: u32;
var<private> lane: u32;

// Every sub-group's value, to be read by all.
fn share(value: u32) {
    workgroupBarrier();
    if lane == 0u {
        reduce_words[subgroup] = value;
    }
    workgroupBarrier();
}

fn sum_all(value: f32, lid: u32) -> f32 {
    share(bitcast<u32>(subgroupAdd(value)));
    var sum = bitcast<f32>(reduce_words[0]);
    for (var i = 1u; i < subgroups; i++) {
        sum += bitcast<f32>(reduce_words[i]);
    }
    return sum;
}

fn max_all(value: u32, lid: u32) -> u32 {
    share(subgroupMax(value));
    var largest = reduce_words[0];
    for (var i = 1u; i < subgroups; i++) {
        largest = max(largest, reduce_words[i]);
    }
    return largest;
}

fn count_all(value: u32, lid: u32) -> u32 {
    share(subgroupAdd(value));
    var sum = reduce_words[0];
    for (var i = 1u; i < subgroups; i++) {
        sum += reduce_words[i];
    }
    return sum;
}

@compute @workgroup_size(64)
fn main(
    @builtin(local_invocation_index) lid: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(subgroup_id) subgroup_id: u32,
    @builtin(num_subgroups) num_subgroups: u32,
    @builtin(subgroup_invocation_id) subgroup_lane: u32,
) {
    subgroup = subgroup_id;
    subgroups = num_subgroups;
    lane = subgroup_lane;
    run(lid, group.x + group.y * groups.x);
}
