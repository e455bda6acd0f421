# Parts of a check, each with its own limit, its files and a row in a table; sourced by gpu-check.sh and chip-check.sh. They set:
# glm, the tool; device; folder, which exists; budget, the seconds in which everything must be over.
tab=$(printf '\t')
begin=$(date +%s)
table=$folder/parts.tsv
: >"$table"
failed=0
incomplete=0
# Seconds that later parts need.
keep=0

# A row of the table of parts.
row() {
    printf '%s\t%s\t%s\n' "$1" "$2" "$3" | tee -a "$table"
}

# allot NAME SECONDS: lets a part begin, which may take $most seconds: so many at most, and no longer than later parts leave.
allot() {
    name=$1
    most=$2
    start=$(date +%s)
    left=$((budget - (start - begin) - keep))
    [ "$most" -gt "$left" ] && most=$left
    [ "$most" -ge 5 ] && return
    result="not run: no time left"
    row "$name" "$result" ''
    incomplete=7
    return 1
}

# conclude CODE: the row of the part that ended with an exit code.
conclude() {
    code=$1
    took=$(($(date +%s) - start))
    # Killed before its time was over: not by the limit.
    [ "$code" -eq 137 ] && [ "$took" -lt "$most" ] && code=1009
    case $code in
        0) result=passed ;;
        124 | 137) result="stopped after $most s" incomplete=7 ;;
        5) result="does not fit (5)" incomplete=7 ;;
        7) result="nothing measured (7)" incomplete=7 ;;
        1009) result="FAILED (signal 9)" failed=1 ;;
        129 | 1[3-9]?) result="FAILED (signal $((code - 128)))" failed=1 ;;
        *) result="FAILED ($code)" failed=1 ;;
    esac
    row "$name" "$result" "$took s"
}

# part NAME SECONDS FILE COMMAND…: runs a command; stdout goes to FILE in the folder, stderr to a log. When its time is over it is
# interrupted first, so that it writes what it has.
part() {
    allot "$1" "$2" || return
    file=$3
    shift 3
    printf '%s\n' "$*" >>"$folder/commands.log"
    timeout -s INT -k 5 "$most" "$@" >"$folder/$file" 2>"$folder/$name.log"
    conclude $?
}

# answers NAME SECONDS [OPTION…]: the embedded model says on the device what it says on the CPU.
answers() {
    allot "$1" "$2" || return
    shift 2
    compare_answers "$@" >"$folder/$name.log" 2>&1
    conclude $?
}

# Every question, and 1 when an answer differs; a code of the tool, or 124, when one is not given.
compare_answers() {
    differ=0
    for question in 'What is 16 mod 12?' 'What is 17 plus 25?' 'What is 12 times 11?' '34减去9是多少？' 'Who are you?'; do
        want=$("$glm" chat -q -p "$question" --seed 1 --device cpu "$@") || return
        left=$((most - ($(date +%s) - start)))
        [ "$left" -lt 1 ] && return 124
        got=$(timeout -k 5 "$left" "$glm" chat -q -p "$question" --seed 1 --device "$device" "$@") || return
        printf '%s\n  cpu: %s\n  %s: %s\n' "$question" "$want" "$device" "$got"
        [ "$want" = "$got" ] || differ=1
    done
    return $differ
}
