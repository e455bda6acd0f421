//! What the four normalisations share: matrices first, then vectors.

use hal::{Result, View};

use crate::kernel::{Params, Program, bind_all};
use crate::stream::WgpuStream;

/// Queues a workgroup per row; `params` so far, then where each argument begins and how far its rows lie apart.
pub(super) fn queue(
    stream: &mut WgpuStream,
    program: &Program,
    args: &[View<'_>],
    mut params: Params,
) -> Result<()> {
    if args[0].is_empty() {
        return Ok(());
    }
    let bound = bind_all(&stream.gpu, args)?;
    for (bound, view) in bound.iter().zip(args) {
        params = match view.rank() {
            1 => params.first(bound),
            _ => params.rows(bound, view),
        };
    }
    stream.dispatch(program, &bound, &params, args[0].dim(0))
}
