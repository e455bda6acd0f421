//! Views of any strides: what copy, cast and elementwise share.

use hal::{MAX_RANK, Result, View};

use crate::kernel::{Params, Program, WORKGROUP, bind_all};
use crate::stream::WgpuStream;

/// The text that their kernels begin with.
pub(super) const STRIDED: &str = include_str!("../../kernels/strided.wgsl");

/// A view's four strides, of missing dimensions 0.
fn strides(view: &View<'_>) -> [usize; MAX_RANK] {
    let mut strides = [0; MAX_RANK];
    strides[MAX_RANK - view.rank()..].copy_from_slice(view.strides());
    strides
}

/// Queues a program over views of one shape, the first of them the output: shape and strides, then where each begins,
/// the number of elements, whether the output is dense, and what `more` adds.
///
/// Views too long for one binding are halved along the dimension that reaches farthest.
pub(super) fn queue(
    stream: &mut WgpuStream,
    program: &Program,
    args: &[View<'_>],
    more: &dyn Fn(Params) -> Params,
) -> Result<()> {
    let out = &args[0];
    if out.is_empty() {
        return Ok(());
    }
    let limit = stream.gpu.limits.max_storage_buffer_binding_size as usize;
    // The start of a binding may lie an alignment before its view.
    let margin = 2 * stream.gpu.limits.min_storage_buffer_offset_alignment as usize;
    let reach = |view: &View<'_>| view.range_bytes().len() + margin;
    if args.iter().any(|view| reach(view) > limit) {
        let longest = (0..out.rank())
            .filter(|&dim| out.dim(dim) > 1)
            .max_by_key(|&dim| {
                let reaches = args.iter().map(|v| v.strides()[dim] * v.dim(dim));
                reaches.max().unwrap_or(0)
            });
        if let Some(dim) = longest {
            let (half, n) = (out.dim(dim) / 2, out.dim(dim));
            for range in [0..half, half..n] {
                let parts: Result<arrayvec::ArrayVec<View<'_>, 3>> = args
                    .iter()
                    .map(|view| view.slice(dim, range.clone()))
                    .collect();
                queue(stream, program, &parts?, more)?;
            }
            return Ok(());
        }
    }
    let bindings = bind_all(&stream.gpu, args)?;
    let mut shape = [1; MAX_RANK];
    shape[MAX_RANK - out.rank()..].copy_from_slice(out.shape());
    let mut params = Params::new().words(&shape, 4, 1);
    for view in args {
        params = params.words(&strides(view), 4, 0);
    }
    for bound in &bindings {
        params = params.word(bound.first as usize);
    }
    let dense = out.is_contiguous();
    params = more(params.word(out.len()).word(dense.into()));
    // One invocation per element, or fewer where words hold several; one word more for a ragged start.
    let groups = (out.len() + 3).div_ceil(WORKGROUP as usize);
    stream.dispatch(program, &bindings, &params, groups)
}
