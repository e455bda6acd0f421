//! The classes of [`hal::Error`].

use hal::ErrorKind;

use super::{Code, Severity, text};

/// Each class with its code.
pub(super) const CODES: &[(ErrorKind, Code)] = &[
    (
        ErrorKind::Unsupported,
        Code::new(
            "GLM-E001",
            Severity::Error,
            text(
                "the device or this build cannot do it",
                "The device has no kernel for an operation, type or size, a model is known to overflow a type, or a file has a \
                 form that is not read.",
                "`glm plan MODEL --device X` tells which operation or type it is; choose another --dtype or --device.",
            ),
            text(
                "设备或本程序不支持",
                "设备没有某个算子、数据类型或尺寸的内核，或者已知模型在该类型下会溢出，或者文件的格式不在支持之列。",
                "用 `glm plan 模型 --device X` 查看是哪个算子或类型，然后换 --dtype 或 --device。",
            ),
        ),
    ),
    (
        ErrorKind::InvalidArgument,
        Code::new(
            "GLM-E002",
            Severity::Error,
            text(
                "an argument is out of its range",
                "No device accepts it: a number, a shape, a token id or the spelling of a device.",
                "The message names the argument and what is accepted; `glm COMMAND --help` lists all.",
            ),
            text(
                "参数超出允许的范围",
                "任何设备都不接受：某个数值、形状、词元编号，或者设备的写法有误。",
                "错误信息写明了是哪个参数以及允许的范围；`glm 命令 --help` 列出全部参数。",
            ),
        ),
    ),
    (
        ErrorKind::OutOfMemory,
        Code::new(
            "GLM-E003",
            Severity::Error,
            text(
                "it does not fit in memory",
                "Weights, KV cache and buffers together need more than is free on the device; inside a container its limit counts.",
                "`glm plan MODEL --device X` computes what fits: quantised weights (--dtype int4-g32), a shorter --context, fewer sequences.",
            ),
            text(
                "内存（显存）不足",
                "权重、KV 缓存和缓冲区合计超过设备的空闲内存；在容器里以容器的限额为准。",
                "用 `glm plan 模型 --device X` 计算怎样放得下：量化权重（--dtype int4-g32）、更短的 --context、更少的并发序列。",
            ),
        ),
    ),
    (
        ErrorKind::DeviceLost,
        Code::new(
            "GLM-E004",
            Severity::Error,
            text(
                "the device stopped answering",
                "A kernel hung or faulted, the driver was reset, or the device was unplugged. Everything on it is gone.",
                "Start the program again. If it comes back: `glm conform --device X` finds the operation, and the system's log (dmesg) \
                 has the driver's message.",
            ),
            text(
                "设备不再响应",
                "内核挂起或出错、驱动被重置，或者设备被移除。设备上的内容已全部丢失。",
                "请重新启动程序。若再次出现：`glm conform --device X` 能找出是哪个算子，系统日志（dmesg）里有驱动的信息。",
            ),
        ),
    ),
    (
        ErrorKind::CompileFailed,
        Code::new(
            "GLM-E005",
            Severity::Error,
            text(
                "a kernel did not compile",
                "The vendor's compiler refused a kernel: it is older than the chip, of another release than the driver, or has a bug.",
                "Take compiler and driver of one release, remove the folder of kept programs ($GLM_CACHE), and report the compiler's log.",
            ),
            text(
                "内核编译失败",
                "厂商的编译器拒绝了某个内核：它比芯片旧、与驱动不是同一版本，或者自身有缺陷。",
                "请使用同一版本的编译器和驱动，删除缓存的程序（$GLM_CACHE），并报告编译日志。",
            ),
        ),
    ),
    (
        ErrorKind::NotFound,
        Code::new(
            "GLM-E006",
            Severity::Error,
            text(
                "a file, tensor, device or library is not there",
                "The path is wrong, a download is incomplete, a driver is not installed, or a variable hides the device.",
                "For files: check the path, `glm inspect MODEL` lists missing tensors. For devices: `glm doctor`.",
            ),
            text(
                "找不到文件、张量、设备或动态库",
                "路径有误、下载不完整、驱动没有安装，或者环境变量隐藏了设备。",
                "文件：检查路径，`glm inspect 模型` 列出缺少的张量。设备：运行 `glm doctor`。",
            ),
        ),
    ),
    (
        ErrorKind::Corrupt,
        Code::new(
            "GLM-E007",
            Severity::Error,
            text(
                "a file contradicts its own format",
                "It was cut short, changed, or is of another model than the files beside it.",
                "Copy or download the file again and compare its checksum with the publisher's.",
            ),
            text(
                "文件与其格式不符",
                "文件被截断、被修改，或者与旁边的文件不属于同一个模型。",
                "请重新复制或下载，并与发布者的校验和比对。",
            ),
        ),
    ),
    (
        ErrorKind::Numeric,
        Code::new(
            "GLM-E008",
            Severity::Error,
            text(
                "NaN or infinity where numbers must be",
                "Activations left the range of their type (f16 ends at 65504), the weights are damaged, or a kernel is wrong.",
                "Try --dtype bf16 or f32. If it stays: `glm trace` on this device and on the CPU, then `glm compare`, names the first \
                 operation that differs.",
            ),
            text(
                "出现 NaN 或无穷大",
                "激活值超出数据类型的范围（f16 最大 65504）、权重损坏，或者某个内核有错误。",
                "请试 --dtype bf16 或 f32。若仍然出现：在该设备和 CPU 上各做一次 `glm trace`，再用 `glm compare` 找出第一个不同的算子。",
            ),
        ),
    ),
    (
        ErrorKind::Io,
        Code::new(
            "GLM-E009",
            Severity::Error,
            text(
                "the operating system refused",
                "No permission, a full disk, or a pipe that nobody reads.",
                "The message has the system's own words; check rights and free space of the path that it names.",
            ),
            text(
                "操作系统拒绝了请求",
                "没有权限、磁盘已满，或者管道无人读取。",
                "错误信息里有系统的原文；请检查其中路径的权限和剩余空间。",
            ),
        ),
    ),
    (
        ErrorKind::Unexpected,
        Code::new(
            "GLM-E010",
            Severity::Error,
            text(
                "a bug, ours or a driver's",
                "Something happened that should be impossible.",
                "Please report the whole message with `glm doctor --json`.",
            ),
            text(
                "程序或驱动的缺陷",
                "发生了本不应发生的事。",
                "请把完整的错误信息连同 `glm doctor --json` 的输出一起报告。",
            ),
        ),
    ),
];
