#!/bin/sh
# Checks a build on a GPU: conformance level by level, the embedded model's answers, speed; one table at the end.
#
# NOT YET RUN ON A GPU. It was tried on machines without one; its first run on a chip is a test of this script too.
#
# usage: scripts/gpu-check.sh [DEVICE [FOLDER]]       cuda:0, gpu-check
#   GLM      the tool (target/release/glm)
#   LEVELS   levels of conformance (0 1 2 3 4 5 6 7)
#   PYTHON   a Python with torch, for what the chip gives to others (python3)
# Exit code 0: everything passed.
set -u
device=${1:-cuda:0}
folder=${2:-gpu-check}
glm=${GLM:-target/release/glm}
levels=${LEVELS:-0 1 2 3 4 5 6 7}
python=${PYTHON:-python3}
tab=$(printf '\t')
mkdir -p "$folder" || exit 2
table=$folder/table.tsv
: >"$table"
failed=0

# Runs a command, its output to a file named after the check; a row of the table.
check() {
    name=$1
    shift
    start=$(date +%s)
    if "$@" >"$folder/$name.log" 2>&1; then
        result=passed
    else
        result="FAILED ($?)"
        failed=1
    fi
    seconds=$(($(date +%s) - start))
    printf '%s\t%s\t%s s\n' "$name" "$result" "$seconds" | tee -a "$table"
}

# The device is there and says ok.
listed() {
    "$glm" devices | tee /dev/stderr | grep -q "^$device .* ok "
}

# The embedded model says on the device what it says on the CPU.
answers() {
    for question in 'What is 16 mod 12?' 'What is 17 plus 25?' 'What is 12 times 11?' '34减去9是多少？' 'Who are you?'; do
        want=$("$glm" chat -q -p "$question" --seed 1 --device cpu) || return 1
        got=$("$glm" chat -q -p "$question" --seed 1 --device "$device") || return 1
        printf '%s\n  cpu: %s\n  %s: %s\n' "$question" "$want" "$device" "$got"
        [ "$want" = "$got" ] || return 1
    done
}

# What the same chip gives to torch: bytes copied and bf16 products per second, the best of ten.
peers() {
    "$python" - <<'PEERS'
import torch

def best(work):
    times = []
    for _ in range(10):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return min(times)

n = 1 << 28
a = torch.zeros(n, dtype=torch.uint8, device="cuda")
b = torch.empty_like(a)
print(f"torch {torch.__version__} on {torch.cuda.get_device_name()}")
print(f"copy: {2 * n / best(lambda: b.copy_(a)) / 1e9:.0f} GB/s")
m = 4096
x, w = (torch.randn(m, m, dtype=torch.bfloat16, device="cuda") for _ in range(2))
print(f"bf16 {m} x {m} x {m}: {2 * m**3 / best(lambda: x @ w) / 1e12:.1f} TFLOP/s")
x = torch.randn(1, m, dtype=torch.bfloat16, device="cuda")
w = torch.randn(4 * m, m, dtype=torch.bfloat16, device="cuda")
print(f"bf16 1 x {m} x {4 * m}: {2 * w.numel() / best(lambda: x @ w.T) / 1e9:.0f} GB/s of weight")
PEERS
}

check devices listed
for level in $levels; do
    check "level-$level" "$glm" conform --device "$device" --level "$level" --report "$folder/level-$level"
done
check answers answers
if "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    check peers peers
else
    printf 'peers\tSKIPPED: %s has no torch with CUDA\t\n' "$python" | tee -a "$table"
fi

printf '\n%s\n' "$device"
awk -F "$tab" '{ printf "%-12s %-50s %8s\n", $1, $2, $3 }' "$table"
[ -s "$folder/peers.log" ] && cat "$folder/peers.log"
exit $failed
