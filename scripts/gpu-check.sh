#!/bin/sh
# Checks a build on a GPU in eight minutes: conformance level by level, the embedded model's answers, and the speed of
# operations and whole models beside what PyTorch reaches on the same chip; one table at the end. Needs the built tool, the
# chip's libraries and, for the peers, a Python with torch.
#
# docs/performance.md has what it printed for an H200.
#
# usage: scripts/gpu-check.sh [--small] [DEVICE [FOLDER]]       cuda:0, gpu-check
#   --small  small shapes, quick checks, peers on the processor: tries this script itself, on any device
#   GLM      the tool (target/release/glm)
#   LEVELS   levels of conformance (0 1 2 3 4 5 6 7)
#   JOBS     checks at once (4): most of their time goes to the reference on the processor
#   PYTHON   a Python with torch (python3)
#   SECONDS_IN_ALL  when everything must be over (480)
# Every part ends at its own limit; what there is no time for is said so. Exit codes: 0 all parts passed, 1 one failed, 3 the
# device does not run, 7 one was stopped, not run, or measured nothing. A goal that was missed is no failure.
set -u
small=
[ "${1:-}" = --small ] && small=1 && shift
device=${1:-cuda:0}
folder=${2:-gpu-check}
glm=${GLM:-target/release/glm}
levels=${LEVELS:-0 1 2 3 4 5 6 7}
jobs=${JOBS:-4}
python=${PYTHON:-python3}
budget=${SECONDS_IN_ALL:-480}
scripts=$(dirname "$0")
mkdir -p "$folder" || exit 2
rm -f "$folder"/*.jsonl "$folder"/*.log
# shellcheck source=scripts/parts.sh
. "$scripts/parts.sh"

# Where torch has brought NVIDIA's libraries, for a machine that has no toolkit.
if [ -z "${GLM_CUDA_LIBRARIES:-}" ]; then
    found=$("$python" -c 'import nvidia, glob
print(":".join(d for root in nvidia.__path__ for d in glob.glob(root + "/*/lib")))' 2>/dev/null)
    [ -n "$found" ] && export GLM_CUDA_LIBRARIES="$found"
fi

{
    date -u '+%Y-%m-%d %H:%M UTC'
    "$glm" --version
    "$glm" devices
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv 2>&1
    "$python" -c 'import torch; print("torch", torch.__version__, "CUDA", torch.version.cuda)' 2>&1
    printf 'GLM_CUDA_LIBRARIES=%s\n' "${GLM_CUDA_LIBRARIES:-}"
} >"$folder/about.txt" 2>&1
if [ "$device" != cpu ] && ! "$glm" chat -q -p hi -n 1 --device "$device" >"$folder/open.log" 2>&1; then
    cat "$folder/about.txt" "$folder/open.log"
    echo "$device does not run the embedded model"
    exit 3
fi

if [ -n "$small" ]; then
    depth=--quick
    ops='--shape tiny -m 1,8 -p 64 -d 128 --mib 1 -r 2 --seconds 0.5'
    shapes=tiny
    tests='-p 16 -n 4 -b 1,2 -r 2'
    peers=cpu
else
    depth=
    ops='--shape chatglm3-6b,glm-4-9b -b 1,8'
    shapes='chatglm3-6b glm-4-9b'
    tests='-p 512 -n 32 -b 1,8,64 -r 3 --chunk 2048'
    peers=cuda
fi

answers answers 150
keep=$((budget * 65 / 100))
for level in $levels; do
    # shellcheck disable=SC2086
    part "level-$level" 60 "level-$level.txt" "$glm" conform --device "$device" --level "$level" -j "$jobs" $depth --report "$folder/level-$level"
done

keep=$((budget * 45 / 100))
# shellcheck disable=SC2086
part ops 90 ops.jsonl "$glm" bench ops -o jsonl --device "$device" $ops
keep=$((budget * 20 / 100))
for shape in $shapes; do
    for dtype in bf16 int8 int4; do
        # shellcheck disable=SC2086
        part "model-$shape-$dtype" 35 "model-$shape-$dtype.jsonl" \
            "$glm" bench -o jsonl --device "$device" --shape "$shape" --dtype "$dtype" $tests
    done
done
keep=0
if [ "$peers" = cpu ]; then
    ready='import torch'
else
    ready='import torch, sys; sys.exit(not torch.cuda.is_available())'
fi
if why=$("$python" -c "$ready" 2>&1); then
    part peers 130 peers.jsonl "$python" "$scripts/gpu_peers.py" --device "$peers" --seconds 120 "$folder"/ops.jsonl "$folder"/model-*.jsonl
else
    row peers "SKIPPED: $python has no torch with CUDA${why:+: $(printf '%s' "$why" | tail -n 1)}" ''
fi
{
    cat "$folder/about.txt"
    printf '\n%s\n' "$device"
    awk -F "$tab" '{ printf "%-24s %-40s %8s\n", $1, $2, $3 }' "$table"
    printf '\n'
    for level in $levels; do
        [ -f "$folder/level-$level.txt" ] && grep -E '^L[0-9]|certifies|(passed|failed|partial).* in ' "$folder/level-$level.txt"
    done
    printf '\n'
    "$python" "$scripts/gpu_table.py" "$folder" ${small:+--small}
} 2>&1 | tee "$folder/report.txt"
[ "$failed" -ne 0 ] && exit 1
exit $incomplete
