// Tensors of up to four dimensions and any strides: what copy, cast and elementwise share.

// Where element `flat` (row-major) of a tensor of `shape` lies.
fn place(flat: u32, shape: vec4<u32>, strides: vec4<u32>) -> u32 {
    var rest = flat;
    var at = (rest % shape.w) * strides.w;
    rest /= shape.w;
    at += (rest % shape.z) * strides.z;
    rest /= shape.z;
    at += (rest % shape.y) * strides.y;
    rest /= shape.y;
    return at + rest * strides.x;
}
