//! The operators of the aclnn library, looked up once. Each is two functions: `aclnnXGetWorkspaceSize`, which checks arguments
//! and gives an executor, and `aclnnX`, which queues its work. Each may be missing.

use std::ffi::{c_char, c_int, c_void};

use backend_runtime::Handle;
use libloading::Library;

use backend_runtime::symbols::symbol;

/// What an operator returns: 0, or a code.
pub(crate) type Status = i32;

/// The second function of any operator: workspace, its bytes, the executor, the stream.
pub(crate) type Queue = unsafe extern "C" fn(*mut c_void, u64, Handle, Handle) -> Status;

/// An operator.
#[derive(Clone, Copy)]
pub(crate) struct Operator<F> {
    /// The first function.
    pub(crate) prepare: F,
    /// The second function.
    pub(crate) queue: Queue,
}

/// The table of operators: a field for each, with the types of what its first function takes before the place for the bytes of
/// the workspace and that for the executor.
macro_rules! operators {
    ($($name:ident($($argument:ty),*);)*) => {
        /// The operators that there are.
        #[expect(non_snake_case, reason = "the vendor's names")]
        pub(crate) struct Operators {
            $(pub(crate) $name: Option<Operator<
                unsafe extern "C" fn($($argument,)* *mut u64, *mut Handle) -> Status
            >>,)*
        }

        impl Operators {
            /// Those of these libraries, which must not be unloaded.
            pub(crate) fn new(libraries: &[&Library]) -> Self {
                Self {
                    $($name: {
                        // SAFETY: the prototypes are those of the vendor's documents.
                        let prepare = unsafe {
                            symbol(libraries, concat!("aclnn", stringify!($name), "GetWorkspaceSize"))
                        };
                        // SAFETY: as above; it is the same for all operators.
                        let queue = unsafe { symbol(libraries, concat!("aclnn", stringify!($name))) };
                        prepare.zip(queue).map(|(prepare, queue)| Operator {
                            prepare,
                            queue,
                        })
                    },)*
                }
            }

            /// The name of each operator, and whether it is there.
            pub(crate) fn names(&self) -> Vec<(&'static str, bool)> {
                vec![$((concat!("aclnn", stringify!($name)), self.$name.is_some()),)*]
            }
        }

        impl std::fmt::Debug for Operators {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_map().entries(self.names()).finish()
            }
        }
    };
}

/// A tensor.
type T = Handle;
/// A scalar.
type S = Handle;
/// A list of integers.
type I = Handle;
/// A list of tensors.
type L = Handle;

operators! {
    InplaceCopy(T, T);
    Cast(T, i32, T);
    InplaceFillScalar(T, S);
    InplaceMaskedFillScalar(T, T, S);
    SWhere(T, T, T, T);
    Arange(S, S, S, T);
    Add(T, T, S, T);
    Adds(T, S, S, T);
    Sub(T, T, S, T);
    Mul(T, T, T);
    Muls(T, S, T);
    Div(T, T, T);
    FloorDivides(T, S, T);
    Clamp(T, S, S, T);
    Maximum(T, T, T);
    Minimum(T, T, T);
    LtTensor(T, T, T);
    GeTensor(T, T, T);
    GtTensor(T, T, T);
    NeTensor(T, T, T);
    EqTensor(T, T, T);
    EqScalar(T, S, T);
    LogicalAnd(T, T, T);
    BitwiseAndScalar(T, S, T);
    BitwiseXorTensor(T, T, T);
    Silu(T, T);
    Swish(T, S, T);
    Gelu(T, T);
    GeluV2(T, i64, T);
    SwiGlu(T, i64, T);
    Rsqrt(T, T);
    Mean(T, I, bool, i32, T);
    ReduceSum(T, I, bool, i32, T);
    Amax(T, I, bool, T);
    RmsNorm(T, T, f64, T, T);
    LayerNorm(T, I, T, T, f64, T, T, T);
    Softmax(T, i64, T);
    Matmul(T, T, T, i8);
    MatmulWeightNz(T, T, T, i8);
    TransMatmulWeight(T);
    WeightQuantBatchMatmulV2(T, T, T, T, T, T, T, c_int, T);
    Embedding(T, T, T);
    IndexSelect(T, i64, T, T);
    InplaceIndexCopy(T, i64, T, T);
    Gather(T, i64, T, T);
    InplaceScatter(T, i64, T, T, i64);
    ArgMax(T, i64, bool, T);
    Sort(T, bool, i64, bool, T, T);
    Cumsum(T, i64, i32, T);
    FusedInferAttentionScoreV2(
        T, L, L, T, T, I, I, T, T, T, T, T, T, T, T, T, T, T, T, T, T, T, T, I,
        i64, f64, i64, i64, *const c_char, i64, i64, i64, i64, i64, bool, i64, i64, T, T
    );
}
