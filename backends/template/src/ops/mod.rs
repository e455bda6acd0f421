//! One file per operation.

pub(crate) mod rms_norm;
