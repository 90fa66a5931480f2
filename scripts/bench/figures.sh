# Figures: taken side by side, kept under names, told as median and spread. Sourced by scripts/bench-ratios.
# shellcheck shell=bash disable=SC2034,SC2154 # names of scripts/bench-ratios and its other files

ticks_a_second=$(getconf CLK_TCK)

# field PATH JSON: a value of a result.
field() { python3 scripts/bench/result.py "$1" <<<"$2"; }
figure() { if [[ -n $2 ]]; then printf '%s\t%s\n' "$1" "$2" >>"$figures"; fi; }
# failed NAME WHY: a point that leaves a gap.
failed() {
    echo "$1: NOT TAKEN: $2" >&2
    printf '%s: %s\n' "$1" "$2" >>"$failures"
    # So that the rounds of two names stay side by side.
    figure "$1/rate" gap
}
# Of the figures under a name: median and, as half the range in percent of it, the spread.
summary() {
    awk -F'\t' -v name="$1" '$1 == name && $2 != "gap" { print $2 }' "$figures" | sort -g | awk '
        { value[NR] = $1 }
        END {
            if (!NR) { print "-\t-"; exit }
            median = NR % 2 ? value[(NR + 1) / 2] : (value[NR / 2] + value[NR / 2 + 1]) / 2
            spread = median ? 50 * (value[NR] - value[1]) / median : 0
            printf "%.6g\t%.0f\n", median, spread
        }'
}
median() { summary "$1" | cut -f1; }
# "12345 ± 6 %"
cell() { summary "$1" | awk -F'\t' -v scale="${2:-1}" -v form="${3:-%.0f}" '
    $1 == "-" { print "–"; exit } { printf form " ± %s %%\n", $1 / scale, $2 }'; }
# The median alone.
plain() { median "$1" | awk -v scale="${2:-1}" -v form="${3:-%.0f}" '
    $1 == "-" { print "–"; exit } { printf form "\n", $1 / scale }'; }
ms() { plain "$1" 1000 "${2:-%.2f}"; }
quotient() { awk -v a="$1" -v b="$2" -v form="${3:-%.2f}" 'BEGIN { if (b + 0) printf form "\n", a / b; else print "–" }'; }
# ratio A B: the median over the rounds of a round's A / B, so that a slow hour slows both. Both have a figure a round.
ratio() {
    paste <(awk -F'\t' -v name="$1" '$1 == name { print $2 }' "$figures") \
        <(awk -F'\t' -v name="$2" '$1 == name { print $2 }' "$figures") |
        awk -F'\t' '$1 + 0 && $2 + 0 { print $1 / $2 }' | sort -g | awk '
            { value[NR] = $1 }
            END {
                if (!NR) { print "–"; exit }
                median = NR % 2 ? value[(NR + 1) / 2] : (value[NR / 2] + value[NR / 2 + 1]) / 2
                if (NR > 1) printf "%.2f (%.2f–%.2f)\n", median, value[1], value[NR]; else printf "%.2f\n", median
            }'
}

busy_ticks() { awk '/^cpu / { print $2 + $3 + $4 + $7 + $8 + $9; exit }' /proc/stat; }
# Of a process that has ended nothing is known any more: 0.
process_ticks() { { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null || true; } | awk '{ ticks = $12 + $13 } END { print ticks + 0 }'; }

# measured NAME SERVER ADDRESS FLAG…: one run of the load generator, into `line`, with the CPU of everybody meanwhile;
# false when there is no result, which is told.
measured() {
    local name=$1 server=$2 at=$3 busy own began wall load_cpu reason
    shift 3
    busy=$(busy_ticks) own=$(process_ticks "${pids[$server]}") began=$EPOCHREALTIME
    if ! line=$(TIMEFORMAT='%U %S'; { time "$release/echopay" bench --json "${seeded[@]}" --url "http://$at" "$@" \
        2>&"$stderr"; } 2>"$work/time"); then
        reason=$(field failures.0 "$line")
        failed "$name" "${reason:-$(field error "$line")}"
        return 1
    fi
    wall=$((${EPOCHREALTIME/[.,]/} - ${began/[.,]/}))
    busy=$(($(busy_ticks) - busy)) own=$(($(process_ticks "${pids[$server]}") - own))
    load_cpu=$(tr , . <"$work/time" | awk '{ print $1 + $2 }')
    foreign=$(awk -v busy="$busy" -v own="$own" -v hz="$ticks_a_second" -v load="$load_cpu" -v us="$wall" \
        'BEGIN { f = ((busy - own) / hz - load) / (us / 1e6); printf "%.2f", f < 0 ? 0 : f }')
    cores=$(awk -v own="$own" -v hz="$ticks_a_second" -v us="$wall" 'BEGIN { printf "%.2f", own / hz / (us / 1e6) }')
}

# point NAME SERVER ADDRESS FLAG…: one measurement of the load generator against that server, again while others disturb
# it. `$tries` times at most.
tries=3
point() {
    local name=$1 try best='' best_foreign=99 best_cores='' line foreign cores values
    shift
    for ((try = 1; try <= tries; try++)); do
        measured "$name" "$1" "$2" "${timed[@]}" "${@:3}" || return 0
        if awk -v a="$foreign" -v b="$best_foreign" 'BEGIN { exit !(a < b) }'; then
            best=$line best_foreign=$foreign best_cores=$cores
        fi
        awk -v a="$foreign" -v b="$foreign_max" 'BEGIN { exit !(a > b) }' || break
    done
    mapfile -t values < <(python3 scripts/bench/result.py transfers_per_second writes.p50_us writes.p99_us \
        writes.max_us processes.generator_cores <<<"$best")
    figure "$name/rate" "${values[0]}"
    figure "$name/p50_us" "${values[1]}"
    figure "$name/p99_us" "${values[2]}"
    figure "$name/max_us" "${values[3]}"
    figure "$name/generator" "${values[4]}"
    figure "$name/cpu" "$best_cores"
    figure "$name/foreign" "$best_foreign"
    echo "$name: ${values[0]%.*}/s, p50 ${values[1]} us, p99 ${values[2]} us, max ${values[3]} us," \
        "server $best_cores cores, generator ${values[4]:0:4}, foreign $best_foreign" >&2
}
