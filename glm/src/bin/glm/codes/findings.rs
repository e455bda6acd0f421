//! What `glm doctor` can find.

use super::Severity::{Error, Note, Ok, Warning};
use super::{Code, text};

/// By number: 001 the machine, 020 devices, 040 variables.
pub(super) const CODES: &[Code] = &[
    Code::new(
        "GLM-D001",
        Ok,
        text("{system}", "The operating system and its kernel.", ""),
        text("{system}", "操作系统及其内核。", ""),
    ),
    Code::new(
        "GLM-D002",
        Ok,
        text(
            "the CPU back end computes with {level}",
            "The instruction sets that its kernels use.",
            "",
        ),
        text("CPU 后端使用 {level}", "其内核所用的指令集。", ""),
    ),
    Code::new(
        "GLM-D003",
        Warning,
        text(
            "the CPU back end computes with {level}, without vector instructions",
            "The CPU has neither AVX2 nor NEON, a virtual machine hides them, or GLM_CPU_LEVEL lowers the choice.",
            "Remove GLM_CPU_LEVEL, or let the virtual machine pass the host's CPU through.",
        ),
        text(
            "CPU 后端使用 {level}，没有用向量指令",
            "CPU 没有 AVX2 或 NEON、虚拟机将其隐藏，或者 GLM_CPU_LEVEL 降低了等级。",
            "请去掉 GLM_CPU_LEVEL，或者让虚拟机直通主机的 CPU。",
        ),
    ),
    Code::new(
        "GLM-D005",
        Ok,
        text(
            "{threads} threads, for {cpus} CPUs that this process may use (quota: {quota})",
            "The CPU back end starts one thread per CPU unless --threads says otherwise.",
            "",
        ),
        text(
            "{threads} 个线程，本进程可用 {cpus} 个 CPU（配额：{quota}）",
            "除非用 --threads 指定，CPU 后端为每个 CPU 启动一个线程。",
            "",
        ),
    ),
    Code::new(
        "GLM-D006",
        Warning,
        text(
            "{threads} threads were asked for, and this process may use {cpus} CPUs (quota: {quota})",
            "The affinity or a control group's quota is smaller: threads wait for each other, and each step takes as long as the slowest.",
            "Set --threads to {cpus}, or raise the quota of the container.",
        ),
        text(
            "要求 {threads} 个线程，而本进程只能用 {cpus} 个 CPU（配额：{quota}）",
            "CPU 亲和性或控制组的配额更小：线程互相等待，每一步都要等最慢的线程。",
            "请把 --threads 设为 {cpus}，或者提高容器的配额。",
        ),
    ),
    Code::new(
        "GLM-D007",
        Ok,
        text(
            "{free} of {total} of memory are free",
            "What models on the CPU can get, and the host's part of loading for other devices.",
            "",
        ),
        text(
            "内存共 {total}，空闲 {free}",
            "CPU 上的模型可用的内存；为其他设备加载模型时主机也要用到。",
            "",
        ),
    ),
    Code::new(
        "GLM-D008",
        Note,
        text(
            "a control group (version {version}) limits memory to {limit}, of which {used} are used; the machine has {total}",
            "The process is in a container or a slice with a limit. Beyond it the system ends the process without a message.",
            "Plan with the limit (`glm plan` does), or raise it.",
        ),
        text(
            "控制组（版本 {version}）把内存限制为 {limit}，已用 {used}；整机有 {total}",
            "进程在有限额的容器或切片中。超出限额时，系统会直接结束进程，没有任何提示。",
            "请按限额规划（`glm plan` 即是如此），或者提高限额。",
        ),
    ),
    Code::new(
        "GLM-D009",
        Warning,
        text(
            "only {free} of {total} of memory are free",
            "Less than 1 GiB: of the published models none fits.",
            "Close other programs, or raise the container's limit.",
        ),
        text(
            "内存共 {total}，仅空闲 {free}",
            "不足 1 GiB：已发布的模型都放不下。",
            "请关闭其他程序，或者提高容器的限额。",
        ),
    ),
    Code::new(
        "GLM-D010",
        Ok,
        text(
            "transparent huge pages are on",
            "Weights lie in pages of 2 MiB, which makes reading them cheaper.",
            "",
        ),
        text(
            "透明大页已开启",
            "权重放在 2 MiB 的页中，读取开销更小。",
            "",
        ),
    ),
    Code::new(
        "GLM-D011",
        Note,
        text(
            "transparent huge pages are set to '{mode}', which this program gets none of",
            "The CPU back end aligns its memory for them and asks for none by itself; with 'always' the system gives them.",
            "As root: echo always > /sys/kernel/mm/transparent_hugepage/enabled",
        ),
        text(
            "透明大页设为“{mode}”，本程序得不到大页",
            "CPU 后端的内存已按大页对齐，但不会主动申请；设为 always 时系统会自动给予。",
            "以 root 执行：echo always > /sys/kernel/mm/transparent_hugepage/enabled",
        ),
    ),
    Code::new(
        "GLM-D012",
        Note,
        text(
            "{bytes} are reserved as huge pages, {free} of them free",
            "Reserved pages (vm.nr_hugepages) are taken from the memory of all other programs, and this one does not use them.",
            "Unless another program needs them, as root: sysctl vm.nr_hugepages=0",
        ),
        text(
            "{bytes} 被预留为大页，其中空闲 {free}",
            "预留的大页（vm.nr_hugepages）占用了其他程序的内存，而本程序并不使用。",
            "若没有其他程序需要，以 root 执行：sysctl vm.nr_hugepages=0",
        ),
    ),
    Code::new(
        "GLM-D020",
        Note,
        text(
            "no device: {why}",
            "No driver was found, or it shows no device. Nothing is wrong on a machine without this hardware.",
            "{advice}",
        ),
        text(
            "没有设备：{why}",
            "没有找到驱动，或者驱动没有发现设备。没有这种硬件的机器属于正常情况。",
            "{advice}",
        ),
    ),
    Code::new(
        "GLM-D021",
        Ok,
        text(
            "{part}: {path} loads",
            "A library of the vendor, as the back end found it.",
            "",
        ),
        text("{part}：{path} 可以加载", "后端找到的厂商动态库。", ""),
    ),
    Code::new(
        "GLM-D022",
        Warning,
        text(
            "{part}: {path} cannot be used: {why}",
            "The file is there, and is damaged, for another processor, lacks a library that it needs, or is too old.",
            "Install it again, of one release with the driver, or name the folder of a good one in {variable}.",
        ),
        text(
            "{part}：{path} 无法使用：{why}",
            "文件存在，但已损坏、属于另一种处理器、缺少它依赖的库，或者版本太旧。",
            "请安装与驱动同一版本的库，或者用 {variable} 指定可用的文件夹。",
        ),
    ),
    Code::new(
        "GLM-D023",
        Warning,
        text(
            "{device} cannot be opened: {why}",
            "The driver is there, and did not give the device.",
            "{advice}",
        ),
        text(
            "无法打开 {device}：{why}",
            "驱动存在，但没有给出设备。",
            "{advice}",
        ),
    ),
    Code::new(
        "GLM-D024",
        Ok,
        text(
            "{device}: {name} ({detail}), memory {memory}",
            "The device opened; in brackets what its driver and compiler say of themselves.",
            "",
        ),
        text(
            "{device}：{name}（{detail}），内存 {memory}",
            "设备已打开；括号内是驱动和编译器的自述。",
            "",
        ),
    ),
    Code::new(
        "GLM-D025",
        Ok,
        text(
            "{device} ran {operations}, equal to the reference, in {milliseconds} ms",
            "A kernel was planned (and compiled, where that is done on the spot), launched, and its result compared element by element. \
             That it runs is shown, not that it is right everywhere: `glm conform` does that.",
            "",
        ),
        text(
            "{device} 运行了 {operations}，与参考结果相同，用时 {milliseconds} 毫秒",
            "内核已规划（需要时现场编译）、启动，并逐个元素与参考结果比较。这只说明能运行；是否处处正确请用 `glm conform` 验证。",
            "",
        ),
    ),
    Code::new(
        "GLM-D026",
        Error,
        text(
            "{device} cannot run {operation}: {why}",
            "The device opened, and a kernel did not compile, did not start, or ended with an error.",
            "{advice}",
        ),
        text(
            "{device} 无法运行 {operation}：{why}",
            "设备已打开，但内核编译失败、无法启动，或者运行出错。",
            "{advice}",
        ),
    ),
    Code::new(
        "GLM-D027",
        Error,
        text(
            "{device} computes {operation} wrongly: {wrong} of {elements} elements, element {at} is {given} and must be {expected}",
            "Driver, compiler or chip are wrong, or a kernel of this program is. Nothing that this device computes can be trusted.",
            "Update the driver; then `glm conform --device {device} --report out/` shows how far it reaches. Please report it.",
        ),
        text(
            "{device} 计算 {operation} 有误：{elements} 个元素中有 {wrong} 个不对，第 {at} 个是 {given}，应为 {expected}",
            "驱动、编译器或芯片有错，或者本程序的内核有错。该设备的任何结果都不可信。",
            "请更新驱动，然后用 `glm conform --device {device} --report out/` 查看影响范围，并请报告。",
        ),
    ),
    Code::new(
        "GLM-D028",
        Error,
        text(
            "the process that tried this back end ended: {why}",
            "A driver or a library crashed. It was tried in a process of its own, so that everything else could be checked.",
            "Update or remove the driver. Commands that do not name this back end's devices are not touched by it.",
        ),
        text(
            "检查该后端的进程意外结束：{why}",
            "驱动或动态库崩溃了。检查在单独的进程中进行，其他检查不受影响。",
            "请更新或移除该驱动。不使用该后端设备的命令不受影响。",
        ),
    ),
    Code::new(
        "GLM-D029",
        Error,
        text(
            "no answer from this back end within {seconds} s",
            "A driver hangs, or a compiler takes very long at its first use.",
            "Try again with --timeout; if it stays, restart the machine or update the driver.",
        ),
        text(
            "该后端在 {seconds} 秒内没有回应",
            "驱动卡住了，或者编译器首次使用耗时很长。",
            "请加大 --timeout 再试；若仍然如此，请重启机器或更新驱动。",
        ),
    ),
    Code::new(
        "GLM-D030",
        Error,
        text(
            "the device that was asked for, {device}, cannot be opened: {why}",
            "It does not exist, its driver is missing, or its name is written otherwise.",
            "{advice}",
        ),
        text(
            "无法打开所要求的设备 {device}：{why}",
            "设备不存在、缺少驱动，或者名称写法不同。",
            "{advice}",
        ),
    ),
    Code::new(
        "GLM-D040",
        Note,
        text(
            "{variable}={value}",
            "The variable changes which devices or drivers are seen; results depend on it.",
            "Remove it when a device is missing that should be there.",
        ),
        text(
            "{variable}={value}",
            "该变量影响能看到哪些设备或驱动，结果与它有关。",
            "如果缺少应有的设备，请去掉该变量。",
        ),
    ),
    Code::new(
        "GLM-D041",
        Warning,
        text(
            "{variable} is set and empty: every device is hidden",
            "An empty list shows no device at all; only a variable that is not set shows all.",
            "Write `unset {variable}`, or name devices: {variable}=0",
        ),
        text(
            "{variable} 已设置但为空：所有设备都被隐藏",
            "空列表表示一个设备也不显示；只有不设置该变量才显示全部。",
            "请执行 `unset {variable}`，或者写明设备：{variable}=0",
        ),
    ),
    Code::new(
        "GLM-D042",
        Warning,
        text(
            "{variable}=\"{value}\": ids after a space are ignored by the driver",
            "The list takes commas and no spaces; from the first id that it cannot read on, the rest is dropped without a word.",
            "Write {variable}={fixed}",
        ),
        text(
            "{variable}=\"{value}\"：驱动会忽略空格后的编号",
            "列表只能用逗号分隔，不能有空格；从第一个无法识别的编号起，后面的都会被悄悄丢弃。",
            "请写成 {variable}={fixed}",
        ),
    ),
    Code::new(
        "GLM-D043",
        Warning,
        text(
            "{variable}={value}: '{entry}' and what follows are not seen",
            "The entry is no id that can stand there: no number (or UUID), or not above the one before it where ids must rise.",
            "Write ids that exist, with commas between them; ascending for ASCEND_RT_VISIBLE_DEVICES.",
        ),
        text(
            "{variable}={value}：从“{entry}”起的设备都看不到",
            "该项不是可用的编号：不是数字（或 UUID），或者在要求升序时没有递增。",
            "请写存在的编号，用逗号分隔；ASCEND_RT_VISIBLE_DEVICES 须按升序。",
        ),
    ),
    Code::new(
        "GLM-D044",
        Warning,
        text(
            "{variable} and {other} are both set: the second counts among what the first left",
            "ROCR_VISIBLE_DEVICES hides devices from the whole runtime; HIP_VISIBLE_DEVICES and GPU_DEVICE_ORDINAL count anew in the rest.",
            "Set one of them: ROCR_VISIBLE_DEVICES for all programs, HIP_VISIBLE_DEVICES for HIP's alone.",
        ),
        text(
            "{variable} 与 {other} 同时设置：后者在前者筛选后的设备中重新编号",
            "ROCR_VISIBLE_DEVICES 对整个运行时隐藏设备；HIP_VISIBLE_DEVICES 和 GPU_DEVICE_ORDINAL 在剩余设备中重新编号。",
            "请只设置一个：ROCR_VISIBLE_DEVICES 对所有程序生效，HIP_VISIBLE_DEVICES 只对 HIP 生效。",
        ),
    ),
    Code::new(
        "GLM-D045",
        Warning,
        text(
            "HSA_OVERRIDE_GFX_VERSION={value}: the chip is taken for another",
            "Kernels are compiled for the architecture that the variable names. Reports of `glm conform` under it say nothing of this chip.",
            "Write `unset HSA_OVERRIDE_GFX_VERSION` where the chip works without it.",
        ),
        text(
            "HSA_OVERRIDE_GFX_VERSION={value}：芯片被当作另一种型号",
            "内核按该变量指定的架构编译。此时 `glm conform` 的报告不能说明本芯片的情况。",
            "若芯片不需要它也能工作，请执行 `unset HSA_OVERRIDE_GFX_VERSION`。",
        ),
    ),
    Code::new(
        "GLM-D046",
        Note,
        text(
            "{variable}={value}: launches wait for each other",
            "The variable places errors where they happen, and makes everything slower.",
            "Write `unset {variable}` before measuring or serving.",
        ),
        text(
            "{variable}={value}：内核启动变为逐个等待",
            "该变量便于定位错误，但会使一切变慢。",
            "测速或提供服务前请执行 `unset {variable}`。",
        ),
    ),
    Code::new(
        "GLM-D047",
        Warning,
        text(
            "{variable} names {path}, which does not exist",
            "The variable names folders or libraries to look in; what does not exist is passed over.",
            "Correct the path, or write `unset {variable}`.",
        ),
        text(
            "{variable} 中的 {path} 不存在",
            "该变量指定要查找的文件夹或动态库；不存在的会被跳过。",
            "请改正路径，或者执行 `unset {variable}`。",
        ),
    ),
];
