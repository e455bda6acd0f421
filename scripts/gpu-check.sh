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
tab=$(printf '\t')
begin=$(date +%s)
mkdir -p "$folder" || exit 2
rm -f "$folder"/*.jsonl "$folder"/*.log
table=$folder/parts.tsv
: >"$table"
failed=0
incomplete=0

# A row of the table of parts.
row() {
    printf '%s\t%s\t%s\n' "$1" "$2" "$3" | tee -a "$table"
}

# Seconds that later parts need.
keep=0

# part NAME SECONDS FILE COMMAND…: runs a command for so long at most, and no longer than later parts leave; stdout goes to FILE
# in the folder, stderr to a log. It is interrupted first, so that it writes what it has.
part() {
    name=$1
    most=$2
    file=$3
    shift 3
    start=$(date +%s)
    left=$((budget - (start - begin) - keep))
    [ "$most" -gt "$left" ] && most=$left
    if [ "$most" -lt 5 ]; then
        row "$name" "not run: no time left" ''
        incomplete=7
        return
    fi
    printf '%s\n' "$*" >>"$folder/commands.log"
    timeout -s INT -k 5 "$most" "$@" >"$folder/$file" 2>"$folder/$name.log"
    code=$?
    case $code in
        0) result=passed ;;
        124 | 137) result="stopped after $most s" incomplete=7 ;;
        7) result="nothing measured (7)" incomplete=7 ;;
        *) result="FAILED ($code)" failed=1 ;;
    esac
    row "$name" "$result" "$(($(date +%s) - start)) s"
}

# The embedded model says on the device what it says on the CPU.
answers() {
    for question in 'What is 16 mod 12?' 'What is 17 plus 25?' 'What is 12 times 11?' '34减去9是多少？' 'Who are you?'; do
        want=$("$glm" chat -q -p "$question" --seed 1 --device cpu) || return 1
        got=$(timeout 30 "$glm" chat -q -p "$question" --seed 1 --device "$device") || return 1
        printf '%s\n  cpu: %s\n  %s: %s\n' "$question" "$want" "$device" "$got"
        [ "$want" = "$got" ] || return 1
    done
}

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

start=$(date +%s)
if answers >"$folder/answers.log" 2>&1; then
    row answers passed "$(($(date +%s) - start)) s"
else
    row answers FAILED "$(($(date +%s) - start)) s"
    failed=1
fi
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
