#!/bin/sh
# The first day on a chip: what the machine says, conformance level by level, a trace and answers against the CPU's, speed; one
# folder, its archive, and a summary that says of every step what came out and what to do next. Needs the built tool, and of the
# system sh, awk, sed, tar and timeout. docs/first-day-on-a-chip.md says how to read it.
#
# usage: scripts/chip-check.sh [--minutes N] DEVICE [FOLDER]      10 minutes, chip-check-DEVICE
#   DEVICE   hip:0, ascend:0, opencl:0, plugin:./lib.so, …
#   GLM      the tool (target/release/glm, or glm in PATH)
#   DEPTH    of conformance: quick, standard or full (quick, from 30 minutes on standard)
#   JOBS     checks at once (1)
#   PATIENCE  seconds that one check may take (60)
#   LEVELS   levels of conformance (0 1 2 3 4 5 6)
#   SHAPE    the shape that is planned, and whose operations are measured (glm-edge-1.5b)
#   SECONDS_IN_ALL  in place of the minutes
# Steps that crash, hang or fail do not stop those after them; only a device that does not open does. Exit codes: 0 every step
# passed, 1 one failed, 3 the device does not open, 7 one was stopped, not run, or measured nothing.
set -u
usage() {
    sed -n 's/^# usage: /usage: /p' "$0" >&2
    exit 2
}

minutes=10
if [ "${1:-}" = --minutes ]; then
    minutes=${2:-}
    [ $# -ge 2 ] || usage
    shift 2
fi
budget=${SECONDS_IN_ALL:-}
case ${budget:-$minutes} in
    '' | *[!0-9]* | 0) usage ;;
esac
budget=${budget:-$((minutes * 60))}
case ${1:-} in
    '' | -*) usage ;;
esac
device=$1
plain=$(printf '%s' "$device" | tr -c 'A-Za-z0-9\n' '-')
folder=${2:-chip-check-$plain}
scripts=$(dirname "$0")
glm=${GLM:-}
for candidate in "$scripts/../target/release/glm" glm; do
    [ -n "$glm" ] || glm=$(command -v "$candidate" || true)
done
for tool in "${glm:-glm}" awk sed tar timeout; do
    command -v "$tool" >/dev/null && continue
    echo "there is no $tool: GLM names the built tool, the rest comes with the system" >&2
    exit 2
done
case ${DEPTH:-} in
    '') [ "$budget" -lt 1800 ] && depth=--quick || depth= ;;
    standard) depth= ;;
    quick | full) depth=--$DEPTH ;;
    *) usage ;;
esac
shape=${SHAPE:-glm-edge-1.5b}
prompt='What is 16 mod 12?'
# So that an old folder of this name is never mixed with the new.
if [ -e "$folder" ] && [ ! -f "$folder/parts.tsv" ]; then
    echo "$folder is there and is no folder of this script" >&2
    exit 2
fi
rm -rf "$folder"
mkdir -p "$folder" || exit 2
# shellcheck source=scripts/parts.sh
. "$scripts/parts.sh"
steps=$folder/steps.tsv
opens=1
left_out=

# note WHY NEXT: what the summary says of the part that ran last, beside its row.
note() {
    line=$(printf '%s\t%s' "$1" "$2" | tr '\n' ' ' | tr -s ' ')
    printf '%s\t%s\t%s\n' "$name" "$result" "$line" >>"$steps"
}

# The first error of a log, and the step that it proposes.
error_of() {
    sed -n 's/^error: //p; s/.*thread .* panicked/panicked/p' "$folder/$1" | sed -n 1p | cut -c 1-300
}
next_of() {
    found=$(sed -n 's/^ *next: //p' "$folder/$1" | sed -n 1p)
    printf '%s' "${found:-send the folder}"
}

longer() {
    printf 'scripts/chip-check.sh --minutes %s %s' "$((budget / 30 + 1))" "$device"
}

# fails NAME SECONDS FILE COMMAND…: runs a part. When it failed, what is to be said of it is left to the caller.
fails() {
    if [ "$opens" -eq 0 ]; then
        left_out="$left_out $1"
        return 1
    fi
    part "$@"
    case $result in
        passed) note '' '' ;;
        FAILED* | 'does not fit'*) return 0 ;;
        stopped*) note 'its time was over; kernels that were compiled are kept for the next run' "$(longer)" ;;
        *) note '' "$(longer)" ;;
    esac
    return 1
}

{
    date -u '+%Y-%m-%d %H:%M UTC'
    "$glm" --version
    uname -srm
    printf 'device %s, %s seconds in all\n' "$device" "$budget"
} >"$folder/about.txt" 2>&1
cat "$folder/about.txt"

keep=$((budget * 60 / 100))
if fails doctor 180 doctor.txt "$glm" doctor --lang en --device "$device" --timeout 60 --snapshot "$folder/doctor.json"; then
    why=$(sed -n 's/^ *\[error\] *//p' "$folder/doctor.txt" | sed -n 1p)
    next=$(sed -n '/^ *\[error\]/,$ s/^ *next: //p' "$folder/doctor.txt" | sed -n 1p)
    note "${why:-$(error_of doctor.log)}" "${next:-$(next_of doctor.log)}"
fi
if fails devices 60 devices.txt "$glm" devices; then
    note "$(error_of devices.log)" "$(next_of devices.log)"
fi

# Level 0 opens the device.
keep=$((budget * 35 / 100))
for level in ${LEVELS:-0 1 2 3 4 5 6}; do
    # shellcheck disable=SC2086
    if fails "level-$level" 180 "level-$level.txt" "$glm" conform --device "$device" --level "$level" \
        -j "${JOBS:-1}" --timeout "${PATIENCE:-60}" $depth --report "$folder/level-$level"; then
        case $code in
            3)
                opens=0
                note "it does not open: $(error_of "level-$level.log")" "glm doctor --device $device"
                ;;
            *)
                first=$(grep -m 1 -A 1 -E '^[a-z0-9_]+/[^ ]+: (FAIL|CRASH|TIMEOUT|CLAIMED|HOST|DEVICE-LOST|FLAKY|XPASS)' "$folder/level-$level.txt")
                check=${first%%:*}
                counts=$(sed -n "s/^L$level .* \([0-9]*\/[0-9]*\)  */\1 passed, /p" "$folder/level-$level.txt")
                if [ -n "$check" ]; then
                    note "$counts; first: $first" "glm conform --device $device --level $level --ops '$check'"
                else
                    note "$(error_of "level-$level.log")" "$(next_of "level-$level.log")"
                fi
                ;;
        esac
    fi
    [ "$level" = 0 ] || continue
    # What the device has, and whether a model would fit, before the long levels.
    if fails support 120 support.txt "$glm" support --device "$device"; then
        note "$(error_of support.log)" "$(next_of support.log)"
    fi
    if fails plan 120 plan.txt "$glm" plan --device "$device" --shape "$shape" --dtype int4; then
        case $code in
            5) note "$shape does not fit in the device's memory" "$(next_of plan.txt)" ;;
            *) note "$(sed -n 's/^ops *//p' "$folder/plan.txt") $(error_of plan.log)" "$(next_of plan.log)" ;;
        esac
    fi
done

# The widest type that the embedded model can have on the device, for both sides of what is compared.
dtype=f32
if [ "$opens" -eq 1 ]; then
    for candidate in f32 f16 bf16; do
        dtype=$candidate
        timeout -k 5 30 "$glm" plan --device "$device" --dtype "$dtype" >/dev/null 2>&1 && break
    done
fi
keep=$((budget * 22 / 100))
"$glm" trace -p "$prompt" -n 4 --device cpu --dtype "$dtype" -o "$folder/cpu.trc" >/dev/null 2>"$folder/trace-cpu.log"
if fails trace 60 trace.txt "$glm" trace -p "$prompt" -n 4 --device "$device" --dtype "$dtype" -o "$folder/chip.trc"; then
    note "$(error_of trace.log)" "$(next_of trace.log)"
fi
if [ -f "$folder/chip.trc" ]; then
    if fails compare 30 compare.txt "$glm" compare "$folder/cpu.trc" "$folder/chip.trc"; then
        place=$(sed -n 's/^first divergence *\([^ ]*\) .*/\1/p' "$folder/compare.txt")
        note "$(sed -n '/^first divergence/p' "$folder/compare.txt")$(error_of compare.log)" \
            "glm trace -p '$prompt' --dtype $dtype --tensors '${place:-*}' -o layer.trc; glm compare layer.trc chip.trc --isolate"
    fi
fi
if [ "$opens" -eq 0 ]; then
    fails answers 0 -
else
    answers answers 120 --dtype "$dtype"
    case $result in
        passed) note '' '' ;;
        FAILED*)
            [ "$code" -eq 1 ] && why="an answer differs from the CPU's: answers.log" || why=$(error_of answers.log)
            note "$why" "look at the steps above first; then glm trace and glm compare with that question"
            ;;
        *) note '' "$(longer)" ;;
    esac
fi

keep=$((budget * 10 / 100))
if fails bench-ops 90 bench-ops.txt "$glm" bench ops -o md --device "$device" --shape "$shape" \
    -m 1,64 -p 512 -d 1024 --mib 16 -r 3 --seconds 1; then
    note "$(error_of bench-ops.log)" "$(next_of bench-ops.log)"
fi
keep=0
if fails bench-model 60 bench-model.txt "$glm" bench -o md --device "$device" --shape "$shape" --layers 2 -p 64 -n 16 -r 2; then
    note "$(error_of bench-model.log)" "$(next_of bench-model.log)"
fi

# What names a person or a machine goes: the home folder, and what holds these files. Reports of conformance have neither.
home=$(printf '%s' "${HOME:-}" | sed 's/[^A-Za-z0-9_/-]/\\&/g; s/^\/$//')
here=$(cd "$folder" && pwd | sed 's/[^A-Za-z0-9_/-]/\\&/g')
for file in "$folder"/*.txt "$folder"/*.log "$folder"/*.json "$folder"/*.tsv; do
    [ -f "$file" ] || continue
    sed "s#$here#.#g${home:+; s#$home#~#g}" "$file" >"$folder/.clean" && mv "$folder/.clean" "$file"
done

if [ -n "$left_out" ]; then
    name=${left_out# } result="not run: the device does not open"
    row "$name" "$result" ''
    note '' ''
fi
limits=$(sed -n '/^limits: /,/^$/p' "$folder/bench-ops.txt" 2>/dev/null | tr -s ' \n' ' ')
{
    printf '# First day on %s\n\n' "$device"
    sed 's/$/  /' "$folder/about.txt"
    printf '\n'
    awk -F "$tab" -v opens="$opens" -v device="$device" '
        $2 ~ /^FAILED/ { failed++; if (!first) first = $0 }
        $2 == "passed" { passed++ }
        { all++ }
        END {
            printf "%d steps: %d passed, %d failed, %d stopped or not run.\n", all, passed, failed, all - passed - failed
            if (opens == 0) printf "\n**%s does not open**: nothing was run on it.\n", device
            if (first) {
                split(first, of, "\t")
                printf "\nLook at this first: **%s**: %s\n", of[1], of[3]
                if (of[4]) printf "\nNext: %s\n", of[4]
            }
        }' "$steps"
    printf '\n| step | result | why | next |\n|---|---|---|---|\n'
    awk -F "$tab" '{ gsub(/\|/, "\\|"); printf "| %s | %s | %s | %s |\n", $1, $2, $3, $4 }' "$steps"
    [ -n "$limits" ] && printf '\nMeasured %s\n' "$limits"
    printf '\n'
    [ "$opens" -eq 1 ] && printf 'Conformance was %s. ' "$([ "$depth" = --quick ] && echo 'quick: it certifies nothing' || echo "${DEPTH:-standard}")"
    if [ "$failed" -eq 0 ] && [ "$opens" -eq 1 ]; then
        printf 'Next, the whole suite, whose report certifies:\n\n    glm conform --device %s --report out/\n' "$device"
    else
        printf 'How to read the files, and in which order to distrust what: docs/first-day-on-a-chip.md.\n'
    fi
} >"$folder/summary.md"
rm -f "$steps"

archive=$folder.tar.gz
parent=$(dirname "$folder")
inside=$(basename "$folder")
# Without the user's name, where this tar can leave it out.
tar --owner=0 --group=0 --numeric-owner -czf "$archive" -C "$parent" "$inside" 2>/dev/null ||
    tar -czf "$archive" -C "$parent" "$inside"
printf '\n'
cat "$folder/summary.md"
printf '\nsend %s\n' "$archive"
[ "$opens" -eq 0 ] && exit 3
[ "$failed" -ne 0 ] && exit 1
exit $incomplete
