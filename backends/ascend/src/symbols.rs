//! The functions of AscendCL and of the base of the operator library, looked up once.
//!
//! The prototypes are ours: the vendor's headers may be used on systems with its chips only, and are not in this tree. A test
//! compares ours with them where they are installed.

use std::ffi::{CStr, c_char, c_void};

use backend_runtime::{Code, Handle, table};

table! {
    /// What every device needs.
    Calls {
    aclInit(*const c_char) -> Code;
    aclrtGetDeviceCount(*mut u32) -> Code;
    aclrtGetSocName() -> *const c_char;
    aclrtSetDevice(i32) -> Code;
    aclrtResetDevice(i32) -> Code;
    aclrtGetCurrentContext(*mut Handle) -> Code;
    aclrtSetCurrentContext(Handle) -> Code;
    aclrtSynchronizeDevice() -> Code;
    aclrtGetMemInfo(i32, *mut usize, *mut usize) -> Code;
    aclrtMalloc(*mut *mut c_void, usize, i32) -> Code;
    aclrtFree(*mut c_void) -> Code;
    aclrtMallocHost(*mut *mut c_void, usize) -> Code;
    aclrtFreeHost(*mut c_void) -> Code;
    aclrtMemcpyAsync(*mut c_void, usize, *const c_void, usize, i32, Handle) -> Code;
    aclrtCreateStream(*mut Handle) -> Code;
    aclrtDestroyStream(Handle) -> Code;
    aclrtSynchronizeStream(Handle) -> Code;
    aclrtStreamWaitEvent(Handle, Handle) -> Code;
    aclrtCreateEvent(*mut Handle) -> Code;
    aclrtDestroyEvent(Handle) -> Code;
    aclrtRecordEvent(Handle, Handle) -> Code;
    aclrtQueryEventStatus(Handle, *mut i32) -> Code;
    aclrtSynchronizeEvent(Handle) -> Code;
    aclrtEventElapsedTime(*mut f32, Handle, Handle) -> Code;
    }
}

table! {
    /// Launches that a stream records.
    Captures {
    aclmdlRICaptureBegin(Handle, i32) -> Code;
    aclmdlRICaptureEnd(Handle, *mut Handle) -> Code;
    aclmdlRIExecuteAsync(Handle, Handle) -> Code;
    aclmdlRIDestroy(Handle) -> Code;
    }
}

table! {
    /// Events that may be recorded again and again, and made with flags.
    Flagged {
    aclrtCreateEventExWithFlag(*mut Handle, u32) -> Code;
    }
}

table! {
    /// What says more.
    Words {
    aclGetRecentErrMsg() -> *const c_char;
    }
}

table! {
    /// Which release it is.
    Release {
    aclrtGetVersion(*mut i32, *mut i32, *mut i32) -> Code;
    }
}

table! {
    /// Devices that reach each other's memory.
    Peers {
    aclrtDeviceCanAccessPeer(*mut i32, i32, i32) -> Code;
    }
}

table! {
    /// Executors that are used more than once, or not at all.
    Repeats {
    aclSetAclOpExecutorRepeatable(Handle) -> i32;
    aclSetTensorAddr(Handle, usize, Handle, *mut c_void) -> i32;
    aclDestroyAclOpExecutor(Handle) -> i32;
    }
}

table! {
    /// Descriptions of arguments, for the operators.
    Base {
    aclCreateTensor(
        *const i64, u64, i32, *const i64, i64, i32, *const i64, u64, *mut c_void
    ) -> Handle;
    aclDestroyTensor(Handle) -> i32;
    aclCreateScalar(*const c_void, i32) -> Handle;
    aclDestroyScalar(Handle) -> i32;
    aclCreateIntArray(*const i64, u64) -> Handle;
    aclDestroyIntArray(Handle) -> i32;
    aclCreateTensorList(*const Handle, u64) -> Handle;
    aclDestroyTensorList(Handle) -> i32;
    }
}

table! {
    /// What weights take in fractals, in elements.
    Fractals {
    aclnnCalculateMatmulWeightSizeV2(Handle, i32, *mut u64) -> i32;
    }
}

/// A constant string of a library.
pub(crate) fn text_at(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not null, and the library's strings end with 0.
    let text = unsafe { CStr::from_ptr(text) };
    let text = text.to_string_lossy().trim().to_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;
    use crate::device::numbers;

    /// Names the folder of the vendor's headers, which holds `acl/acl.h`.
    const HEADERS: &str = "GLM_ASCEND_HEADERS";

    /// Whether a function takes what a list of words says: p a pointer, 4 or 8 a number of as many bytes.
    const SHAPES: &str = r"
        #include <acl/acl.h>
        template <class T> struct Word { static constexpr char of = sizeof(T) == 4 ? '4' : sizeof(T) == 8 ? '8' : '?'; };
        template <class T> struct Word<T *> { static constexpr char of = 'p'; };
        template <class R, class... A> constexpr bool takes(R (*)(A...), const char *words) {
            const char is[] = {Word<A>::of..., 0};
            int i = 0;
            while (is[i] && is[i] == words[i]) i++;
            return is[i] == words[i] && sizeof(R) == (Word<R>::of == 'p' ? 8 : 4);
        }
    ";

    #[test]
    fn prototypes_and_numbers_are_those_of_the_vendors_headers() {
        let skip = |why: String| conformance::skip("ascend-headers", why);
        let Some(headers) = std::env::var_os(HEADERS) else {
            return skip(format!(
                "{HEADERS} does not name the folder of CANN's headers"
            ));
        };
        if !Path::new(&headers).join("acl/acl.h").is_file() {
            return skip(format!("there is no acl/acl.h in {HEADERS}"));
        }
        let mut text = SHAPES.to_owned();
        let tables = [
            Calls::PROTOTYPES,
            Captures::PROTOTYPES,
            Flagged::PROTOTYPES,
            Words::PROTOTYPES,
            Release::PROTOTYPES,
            Peers::PROTOTYPES,
        ];
        // The headers of the operators' base come with the toolkit alone.
        let base = [Base::PROTOTYPES, Repeats::PROTOTYPES].concat();
        for (i, (name, arguments)) in base.iter().chain(&tables.concat()).enumerate() {
            if i == 0 {
                text += "#if __has_include(<aclnn/acl_meta.h>)\n#include <aclnn/acl_meta.h>\n";
            }
            if i == base.len() {
                text += "#endif\n";
            }
            let word = |argument: &&str| match *argument {
                "Handle" => 'p',
                pointer if pointer.starts_with('*') => 'p',
                "usize" | "u64" | "i64" => '8',
                "i32" | "u32" | "Code" => '4',
                other => panic!("{name}: {other}"),
            };
            let words: String = arguments.iter().map(word).collect();
            text += &format!("static_assert(takes(&{name}, \"{words}\"), \"{name}\");\n");
        }
        for (name, number) in numbers() {
            text += &format!("static_assert({name} == {number}, \"{name}\");\n");
        }
        let file =
            std::env::temp_dir().join(format!("glm-ascend-prototypes-{}.cc", std::process::id()));
        std::fs::write(&file, text).unwrap();
        let compiler = std::env::var("CXX").unwrap_or("c++".into());
        let output = Command::new(compiler)
            .args(["-std=c++17", "-fsyntax-only", "-w", "-I"])
            .arg(headers)
            .arg(&file)
            .output();
        std::fs::remove_file(&file).unwrap();
        match output {
            Ok(output) => {
                let errors = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{errors}");
            }
            Err(e) => skip(format!("no C++ compiler: {e}")),
        }
    }
}
