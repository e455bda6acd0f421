#!/usr/bin/env bash
# All tests, those of OpenCL and Vulkan on software drivers, those of HIP with its runtime and compiler, which need no device: installs
# these on Debian and Ubuntu where it is root, else says how. Arguments go to `cargo test`.
#
# DRIVERS=all fetches more into target/drivers: Intel's OpenCL runtime, SwiftShader, NVIDIA's compiler and AscendCL's headers; what was
# installed or fetched must then be a device; what could not be is not tested, and the reason is printed. It also runs the CPU's products
# and attention for aarch64 on emulated cores.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$PWD/target/drivers
mkdir -p "$folder"

say() { printf '%s\n' "$*" >&2; }

# Why drivers may be missing.
excuse=
lacking() {
    excuse=$1
    say "SKIPPED: $1"
}

installed() { dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; }

# One at a time: a release that lacks one package still gets the others.
install_packages() {
    local missing=() package emulator=()
    [ "${DRIVERS:-}" != all ] || emulator=(qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross)
    for package in ocl-icd-libopencl1 pocl-opencl-icd oclgrind libvulkan1 mesa-vulkan-drivers \
        libamdhip64-5 libhiprtc-builtins5 libamdhip64-dev "${emulator[@]}"; do
        installed "$package" || missing+=("$package")
    done
    [ "${#missing[@]}" -gt 0 ] || [ "${DRIVERS:-}" = all ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        [ "${#missing[@]}" -eq 0 ] && return 0
        say "Drivers for more tests: sudo apt-get install -y --no-install-recommends ${missing[*]}"
        lacking "not root"
        return 0
    fi
    apt-get update -qq -o APT::Update::Error-Mode=any >&2 ||
        { lacking "the package servers do not answer"; return 0; }
    [ "${#missing[@]}" -eq 0 ] || say "Installing ${missing[*]}"
    for package in "${missing[@]}"; do
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >"$folder/apt.log" 2>&1 ||
            lacking "apt-get install $package failed: $(tail -n 1 "$folder/apt.log")"
    done
}

# Intel's runtime has f16, sub-groups of 16 and integer dot products, which PoCL may lack.
fetch_intel() {
    local lib=$folder/intel
    if [ ! -e "$lib/libintelocl.so" ]; then
        say "Fetching Intel's OpenCL runtime (280 MB)"
        rm -rf "$folder/wheels" && mkdir -p "$folder/wheels" "$lib"
        python3 -m pip download -q --disable-pip-version-check -d "$folder/wheels" intel-opencl-rt intel-cmplr-lib-rt >&2 ||
            { lacking "pip download of Intel's runtime failed"; return 0; }
        local wheel
        for wheel in "$folder"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$folder/wheels/open"; done
        # Its own loader of drivers stays behind: the system's is used.
        rm -f "$folder"/wheels/open/*/data/lib/libOpenCL*
        mv -t "$lib" "$folder"/wheels/open/*.data/data/lib/*
        rm -rf "$folder/wheels"
    fi
    mkdir -p "$folder/vendors"
    cp /etc/OpenCL/vendors/*.icd "$folder/vendors" 2>/dev/null || true
    echo "$lib/libintelocl.so" >"$folder/vendors/intel.icd"
    export OCL_ICD_VENDORS=$folder/vendors LD_LIBRARY_PATH=$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
}

# SwiftShader has sub-groups of 4 and flushes denormals. It comes inside Debian's Chromium, of which nothing else is used.
fetch_swiftshader() {
    local library=$folder/swiftshader/libvk_swiftshader.so
    if [ ! -e "$library" ]; then
        say "Fetching SwiftShader (30 MB)"
        mkdir -p "$folder/swiftshader"
        (cd "$folder" && apt-get download -qq -o APT::Sandbox::User=root chromium-common >&2 && dpkg-deb --fsys-tarfile chromium-common_*.deb |
            tar -x -C swiftshader --strip-components=4 ./usr/lib/chromium/libvk_swiftshader.so) ||
            { lacking "no package chromium-common with SwiftShader"; return 0; }
        rm -f "$folder"/chromium-common_*.deb
    fi
    printf '{"file_format_version": "1.0.0", "ICD": {"library_path": "%s", "api_version": "1.1.0"}}\n' "$library" \
        >"$folder/swiftshader/icd.json"
    export VK_ADD_DRIVER_FILES=$folder/swiftshader/icd.json
}

# NVIDIA's compilers need no NVIDIA device. The first release is the one of backends/cuda/resources.tsv, the other the newest for
# drivers of CUDA 12.
fetch_nvrtc() {
    fetch_compiler nvrtc libnvrtc.so.13 nvidia-cuda-nvrtc==13.5.37
    fetch_compiler nvrtc12 libnvrtc.so.12 nvidia-cuda-nvrtc-cu12
}

# A folder, the library that it is to hold, and the package that has it.
fetch_compiler() {
    local lib=$folder/$1 library=$2 package=$3
    if [ ! -e "$lib/$library" ]; then
        say "Fetching NVIDIA's compiler, $package (90 MB)"
        rm -rf "$folder/wheels" && mkdir -p "$folder/wheels" "$lib"
        python3 -m pip download -q --disable-pip-version-check --no-deps -d "$folder/wheels" "$package" >&2 ||
            { lacking "pip download of $package failed"; return 0; }
        python3 -m zipfile -e "$folder"/wheels/*.whl "$folder/wheels/open"
        mv -t "$lib" "$folder"/wheels/open/nvidia/*/lib/*
        rm -rf "$folder/wheels"
    fi
    export GLM_CUDA_LIBRARIES=${GLM_CUDA_LIBRARIES:+$GLM_CUDA_LIBRARIES:}$lib
}

# The headers of AscendCL, to compare prototypes with. Their licence lets nobody copy them into another tree.
fetch_ascend_headers() {
    local headers=$folder/ascend
    if [ ! -e "$headers/acl/acl.h" ]; then
        say "Fetching AscendCL's headers (44 MB)"
        rm -rf "$folder/wheels" && mkdir -p "$folder/wheels" "$headers"
        python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.11 \
            --platform manylinux_2_28_x86_64 -d "$folder/wheels" torch-npu==2.14.0 >&2 ||
            { lacking "pip download of AscendCL's headers failed"; return 0; }
        python3 -m zipfile -e "$folder"/wheels/*.whl "$folder/wheels/open"
        mv -t "$headers" "$folder"/wheels/open/torch_npu/include/third_party/acl/inc/acl
        rm -rf "$folder/wheels"
    fi
    export GLM_ASCEND_HEADERS=$headers
}

# Builds the CPU's tests for aarch64 and says whether they can run.
build_neon() {
    local tool
    for tool in qemu-aarch64 aarch64-linux-gnu-gcc rustup; do
        command -v "$tool" >/dev/null || { say "NOT TESTED: NEON kernels: there is no $tool${excuse:+: $excuse}"; return 1; }
    done
    rustup -q target add $aarch64 >&2 || { say "NOT TESTED: NEON kernels: rustup has no $aarch64"; return 1; }
    cargo_neon --no-run || exit 1
}

aarch64=aarch64-unknown-linux-gnu
cargo_neon() {
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
        cargo test -p glm-backend-cpu --target $aarch64 --lib "$@"
}

# On each core the kernels that no other before it has: of floats and of products of pairs; of fours of integers by one instruction;
# of bf16. All must give the same integers as any other level.
test_neon() {
    on_core cortex-a57 neon matmul isa attention vector
    on_core neoverse-n1 neon-dotprod integers rounded_activations rows_do_not
    on_core max neon-bf16 matmul --skip rounded_activations
}

# The core, the level that it is tested for, and which tests.
on_core() {
    local core=$1 level=$2
    shift 2
    say "NEON kernels on an emulated $core: $level"
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="nice qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu $core" TEST_CPU_LEVELS=$level \
        cargo_neon -- "$@"
}

if command -v apt-get >/dev/null && command -v dpkg-query >/dev/null; then
    install_packages
    if [ "${DRIVERS:-}" = all ]; then
        fetch_intel
        fetch_swiftshader
        fetch_nvrtc
        fetch_ascend_headers
    fi
else
    say "Not Debian or Ubuntu: the tests use the OpenCL and Vulkan drivers that are here."
fi
if installed oclgrind; then
    OCLGRIND_ICD=$(dpkg-query -L oclgrind | grep -m 1 'rt-icd\.so$') && export OCLGRIND_ICD
fi
# Software drivers write here.
export POCL_CACHE_DIR=$folder/pocl XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-$folder}

# What is installed must work. What is not is skipped, with its reason.
there() { installed "$1" && printf '%s,' "$2" || true; }
required=${REQUIRE_DEVICE:-}
if [ -z "$required" ] && command -v dpkg-query >/dev/null; then
    required=$(there pocl-opencl-icd opencl; there mesa-vulkan-drivers wgpu; there oclgrind oclgrind; there g++ simt,stand-in; there gcc plugin
        there libhiprtc-builtins5 hip-runtime,hiprtc; there libamdhip64-dev hip-headers)
    [ -z "${GLM_CUDA_LIBRARIES:-}" ] || required+=nvrtc,
    [ -z "${GLM_ASCEND_HEADERS:-}" ] || required+=ascend-headers,
fi
export REQUIRE_DEVICE=${required%,}
say "Devices that must be tested: ${REQUIRE_DEVICE:-none}"

if [ "${DRIVERS:-}" = all ]; then
    # What the tests build: the program alone would have other features, and everything would be compiled twice.
    cargo test --workspace --features glm/wgpu --no-run
    devices=$("${CARGO_TARGET_DIR:-target}/debug/glm" devices)
    say "$devices"
    for name in 'Portable Computing Language' 'Intel(R) OpenCL' llvmpipe SwiftShader; do
        grep -qF "$name" <<<"$devices" && continue
        say "NOT TESTED: there is no device of $name${excuse:+: $excuse}"
        [ -n "$excuse" ] || exit 1
    done
fi
# Emulated cores take what the other tests leave of this machine's.
neon=
if [ "${DRIVERS:-}" = all ] && build_neon; then
    test_neon >"$folder/neon.log" 2>&1 &
    neon=$!
fi
passed=true
cargo test --workspace --features glm/wgpu "$@" || passed=false
if [ -n "$neon" ]; then
    wait "$neon" || passed=false
    cat "$folder/neon.log"
fi
$passed
