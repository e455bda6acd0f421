//! What one device can do, as a value.

use std::fmt;
use std::sync::Arc;

use hal::Device;

use crate::*;

macro_rules! table {
    ($($(#[$doc:meta])* $field:ident: $op:ident,)*) => {
        /// One planner per operation, `None` where the device has none.
        ///
        /// A backend starts from [`Ops::none`] and fills in what it has:
        /// `Ops { rms_norm: Some(Arc::new(planner)), ..Ops::none() }`.
        #[derive(Clone)]
        pub struct Ops {
            $($(#[$doc])* pub $field: Option<Arc<dyn Planner<$op>>>,)*
        }

        impl Ops {
            /// A device that can do nothing.
            pub const fn none() -> Self {
                Self { $($field: None,)* }
            }

            /// Each operation's name, and whether there is a planner for it.
            pub fn names(&self) -> impl Iterator<Item = (&'static str, bool)> {
                [$((<$op as Op>::NAME, self.$field.is_some()),)*].into_iter()
            }
        }

        $(impl Planned for $op {
            fn planner(ops: &Ops) -> Option<&Arc<dyn Planner<Self>>> {
                ops.$field.as_ref()
            }
        })*
    };
}

table! {
    /// Rows of a table.
    embedding: Embedding,
    /// `x · wᵀ` with an epilogue.
    matmul: Matmul,
    /// Matrix products of activations.
    batched_matmul: BatchedMatmul,
    /// Softmax of rows, masked.
    softmax: Softmax,
    /// Attention over a paged KV cache.
    attention: Attention,
    /// Appends keys and values to the cache.
    kv_write: KvWrite,
    /// Rotary position embedding.
    rope: Rope,
    /// [`Rope`], then [`KvWrite`].
    rope_kv_write: RopeKvWrite,
    /// Root-mean-square normalisation.
    rms_norm: RmsNorm,
    /// Layer normalisation.
    layer_norm: LayerNorm,
    /// Residual sum, then [`RmsNorm`].
    add_rms_norm: AddRmsNorm,
    /// Residual sum, then [`LayerNorm`].
    add_layer_norm: AddLayerNorm,
    /// Gated linear unit.
    glu: Glu,
    /// Activation function.
    activation: Activation,
    /// Sum, difference, product.
    elementwise: Elementwise,
    /// Change of element type.
    cast: Cast,
    /// Strided copy.
    copy: StridedCopy,
    /// Index of the largest element of each row.
    argmax: Argmax,
    /// The k largest elements of each row.
    top_k: TopK,
    /// Draws the next token.
    sample: Sample,
}

impl fmt::Debug for Ops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.names()).finish()
    }
}

/// An open device and what it can do: what a backend's `open` returns.
#[derive(Clone, Debug)]
pub struct Accelerator {
    /// Memory and streams.
    pub device: Arc<dyn Device>,
    /// Operations.
    pub ops: Ops,
}
