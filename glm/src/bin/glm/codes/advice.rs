//! What to do in Chinese where a back end's own advice, which is in English, says how to get a device.

/// Of each back end, by name.
pub(super) const CHINESE: &[(&str, &str)] = &[
    ("cpu", "请使用带 `--features cpu` 构建的程序。"),
    (
        "ascend",
        "请安装 CANN 的 toolkit 或 nnrt 以及该芯片的算子包（kernels），执行其 `source set_env.sh`，或者用 GLM_ASCEND_LIBRARIES 指定动态库所在\
         的文件夹；用 `npu-smi info` 查看设备。",
    ),
    (
        "cuda",
        "请安装 NVIDIA 驱动（525 或更新），编译器用 CUDA toolkit 或 `pip install nvidia-cuda-nvrtc`，或者用 GLM_CUDA_LIBRARIES 指定动态库所在\
         的文件夹；用 `nvidia-smi` 查看设备。",
    ),
    (
        "hip",
        "请安装 ROCm 或海光 DTK（DTK 需先执行 `source /opt/dtk/env.sh`），或者用 GLM_HIP_LIBRARIES 指定动态库所在的文件夹；用 `rocminfo`（AMD）或 \
         `hy-smi`（海光）查看设备，用户需要有 /dev/kfd 和 /dev/dri 的权限（render 和 video 组）。",
    ),
    (
        "musa",
        "请安装摩尔线程驱动和带 MTRTC 的 MUSA SDK，或者用 GLM_MUSA_LIBRARIES 指定动态库所在的文件夹；用 `mthreads-gmi` 查看设备。",
    ),
    (
        "opencl",
        "请安装芯片厂商的 OpenCL 驱动；没有 GPU 时可安装 pocl-opencl-icd 和 ocl-icd-libopencl1，在 CPU 上运行；用 `clinfo` 查看设备。",
    ),
    (
        "emulator",
        "`emulator:` 后面的写法见 docs/conformance.md；simt 需要 C++ 编译器。",
    ),
    (
        "plugin",
        "请写明厂商动态库的路径：plugin:./libmychip.so，或者放进 GLM_PLUGINS；该库须按 glm_hal.h 构建。",
    ),
    (
        "wgpu",
        "请安装 Vulkan、Metal、DX12 或 OpenGL 驱动；没有 GPU 时可安装 libvulkan1 和 mesa-vulkan-drivers。",
    ),
];
