//! The library's descriptions of a product, of its operands, and of the kernels that suit. They are memory of the host.

use std::ptr;

use backend_runtime::Code;
use cudarc::cublaslt::sys::{
    cublasComputeType_t, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t,
    cublasLtMatmulDescAttributes_t as Attribute, cublasLtMatmulHeuristicResult_t,
    cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t as Wish,
    cublasLtMatrixLayout_t, cublasLtReductionScheme_t, cudaDataType_t,
};
use hal::{DType, Error, Result};

use crate::symbols::Blas;

use super::{NOT_SUPPORTED, check};

const DOING: &str = "describe a product to cuBLASLt";
/// `CUBLAS_OP_T`.
const TRANSPOSED: i32 = 1;

/// A description, destroyed on drop. The library that made it is never unloaded.
#[derive(Debug)]
struct Owned<T: Copy> {
    raw: T,
    destroy: unsafe extern "C" fn(T) -> Code,
}

// SAFETY: descriptions are plain memory, which nobody else has, and calls only read those they are given shared.
unsafe impl<T: Copy> Send for Owned<T> {}
// SAFETY: as above.
unsafe impl<T: Copy> Sync for Owned<T> {}

impl<T: Copy> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: made by the same library, and not used again. Nobody is left to hear of a failure.
        unsafe { (self.destroy)(self.raw) };
    }
}

/// How operands are multiplied: nothing is done to the sums, which is the library's default.
#[derive(Debug)]
pub(super) struct Operation(Owned<cublasLtMatmulDesc_t>);

impl Operation {
    /// Sums in f32, of a weight whose rows are `[n, k]`.
    pub(super) fn new(api: &Blas) -> Result<Self> {
        let (sums, scale) = (
            cublasComputeType_t::CUBLAS_COMPUTE_32F,
            cudaDataType_t::CUDA_R_32F,
        );
        let mut raw = ptr::null_mut();
        // SAFETY: `raw` outlives the call.
        let code = unsafe { (api.cublasLtMatmulDescCreate)(&mut raw, sums, scale) };
        check(api, DOING, code)?;
        let made = Self(Owned {
            raw,
            destroy: api.cublasLtMatmulDescDestroy,
        });
        // SAFETY: the description is alive, and the number, of as many bytes as it says, is read before the call returns.
        let code = unsafe {
            (api.cublasLtMatmulDescSetAttribute)(
                raw,
                Attribute::CUBLASLT_MATMUL_DESC_TRANSA,
                ptr::from_ref(&TRANSPOSED).cast(),
                size_of_val(&TRANSPOSED),
            )
        };
        check(api, DOING, code)?;
        Ok(made)
    }

    pub(super) fn raw(&self) -> cublasLtMatmulDesc_t {
        self.0.raw
    }
}

/// The library's type of our elements.
fn data_type(dtype: DType) -> Result<cudaDataType_t> {
    match dtype {
        DType::F16 => Ok(cudaDataType_t::CUDA_R_16F),
        DType::BF16 => Ok(cudaDataType_t::CUDA_R_16BF),
        DType::F32 => Ok(cudaDataType_t::CUDA_R_32F),
        _ => Err(Error::unsupported(DOING, format!("elements of {dtype}"))),
    }
}

/// How an operand lies in memory.
#[derive(Debug)]
pub(super) struct Layout(Owned<cublasLtMatrixLayout_t>);

impl Layout {
    /// `rows` of `columns` elements each, `stride` elements apart: to the library, which counts in columns, the transpose.
    pub(super) fn new(
        api: &Blas,
        dtype: DType,
        [rows, columns]: [usize; 2],
        stride: usize,
    ) -> Result<Self> {
        let stride = i64::try_from(stride)
            .map_err(|_| Error::invalid(DOING, format!("a stride of {stride} elements")))?;
        let (dtype, rows, columns) = (data_type(dtype)?, rows as u64, columns as u64);
        let mut raw = ptr::null_mut();
        // SAFETY: `raw` outlives the call.
        let code =
            unsafe { (api.cublasLtMatrixLayoutCreate)(&mut raw, dtype, columns, rows, stride) };
        check(api, DOING, code)?;
        Ok(Self(Owned {
            raw,
            destroy: api.cublasLtMatrixLayoutDestroy,
        }))
    }

    pub(super) fn raw(&self) -> cublasLtMatrixLayout_t {
        self.0.raw
    }
}

/// Which kernels suit.
pub(super) struct Preference(Owned<cublasLtMatmulPreference_t>);

impl Preference {
    /// Those that use at most `scratch_bytes` of workspace, add partial sums in f32, and take weight, x, what is added and
    /// out at addresses that are multiples of `aligned`.
    pub(super) fn new(api: &Blas, scratch_bytes: usize, aligned: [u32; 4]) -> Result<Self> {
        let mut raw = ptr::null_mut();
        // SAFETY: `raw` outlives the call.
        let code = unsafe { (api.cublasLtMatmulPreferenceCreate)(&mut raw) };
        check(api, DOING, code)?;
        let made = Self(Owned {
            raw,
            destroy: api.cublasLtMatmulPreferenceDestroy,
        });
        made.set(
            api,
            Wish::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            scratch_bytes as u64,
        )?;
        let schemes = cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        made.set(
            api,
            Wish::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
            schemes,
        )?;
        let operands = [
            Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ];
        for (operand, bytes) in operands.into_iter().zip(aligned) {
            made.set(api, operand, bytes)?;
        }
        Ok(made)
    }

    fn set<T>(&self, api: &Blas, wish: Wish, value: T) -> Result<()> {
        // SAFETY: the preference is alive, and the value is read before the call returns.
        let code = unsafe {
            (api.cublasLtMatmulPreferenceSetAttribute)(
                self.0.raw,
                wish,
                ptr::from_ref(&value).cast(),
                size_of::<T>(),
            )
        };
        check(api, DOING, code)
    }

    pub(super) fn raw(&self) -> cublasLtMatmulPreference_t {
        self.0.raw
    }
}

/// A kernel that the library found. As its own type, with a status that may be any number.
#[repr(C)]
pub(super) struct Found {
    pub(super) algorithm: cublasLtMatmulAlgo_t,
    pub(super) scratch_bytes: usize,
    pub(super) state: Code,
    waves: f32,
    reserved: [i32; 4],
}

const _: () = assert!(size_of::<Found>() == size_of::<cublasLtMatmulHeuristicResult_t>());

impl Found {
    pub(super) fn none() -> Self {
        Self {
            algorithm: cublasLtMatmulAlgo_t { data: [0; 8] },
            scratch_bytes: 0,
            state: NOT_SUPPORTED,
            waves: 0.0,
            reserved: [0; 4],
        }
    }
}
