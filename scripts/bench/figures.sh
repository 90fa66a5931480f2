# Figures: taken side by side, kept under names, told as median and spread. Sourced by scripts/bench-ratios.
# shellcheck shell=bash disable=SC2034,SC2154 # names of scripts/bench-ratios and its other files

ticks_a_second=$(getconf CLK_TCK)

field() { sed -n "s/.*\"$1\":\([0-9.]*\).*/\1/p" <<<"$2"; }
figure() { printf '%s\t%s\n' "$1" "$2" >>"$figures"; }
# Of the figures under a name: median and, as half the range in percent of it, the spread.
summary() {
    awk -F'\t' -v name="$1" '$1 == name { print $2 }' "$figures" | sort -g | awk '
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
ms() { median "$1" | awk -v form="${2:-%.2f}" '$1 == "-" { print "–"; exit } { printf form "\n", $1 / 1000 }'; }
quotient() { awk -v a="$1" -v b="$2" -v form="${3:-%.2f}" 'BEGIN { if (b + 0) printf form "\n", a / b; else print "–" }'; }
# ratio A B: the median over the rounds of a round's A / B, so that a slow hour slows both. Both have a figure a round.
ratio() {
    paste <(awk -F'\t' -v name="$1" '$1 == name { print $2 }' "$figures") \
        <(awk -F'\t' -v name="$2" '$1 == name { print $2 }' "$figures") |
        awk -F'\t' '$2 + 0 { print $1 / $2 }' | sort -g | awk '
            { value[NR] = $1 }
            END {
                if (!NR) { print "–"; exit }
                median = NR % 2 ? value[(NR + 1) / 2] : (value[NR / 2] + value[NR / 2 + 1]) / 2
                if (NR > 1) printf "%.2f (%.2f–%.2f)\n", median, value[1], value[NR]; else printf "%.2f\n", median
            }'
}

busy_ticks() { awk '/^cpu / { print $2 + $3 + $4 + $7 + $8 + $9; exit }' /proc/stat; }
process_ticks() { sed 's/.*) //' "/proc/$1/stat" | awk '{ print $12 + $13 }'; }

# point NAME SERVER ADDRESS FLAG…: one measurement of the load generator against that server.
point() {
    local name=$1 server=$2 at=$3 try best='' best_foreign=99 line foreign busy own began wall load_cpu server_cpu
    shift 3
    for ((try = 1; try <= 3; try++)); do
        busy=$(busy_ticks) own=$(process_ticks "${pids[$server]}") began=$EPOCHREALTIME
        line=$(TIMEFORMAT='%U %S'; { time "$release/examples/load_http" --address "$at" \
            --seconds "$seconds" "$@" 2>&"$stderr"; } 2>"$work/time")
        wall=$((${EPOCHREALTIME/[.,]/} - ${began/[.,]/}))
        busy=$(($(busy_ticks) - busy)) own=$(($(process_ticks "${pids[$server]}") - own))
        load_cpu=$(tr , . <"$work/time" | awk '{ print $1 + $2 }')
        foreign=$(awk -v busy="$busy" -v own="$own" -v hz="$ticks_a_second" -v load="$load_cpu" -v us="$wall" \
            'BEGIN { f = ((busy - own) / hz - load) / (us / 1e6); printf "%.2f", f < 0 ? 0 : f }')
        if awk -v a="$foreign" -v b="$best_foreign" 'BEGIN { exit !(a < b) }'; then
            best=$line best_foreign=$foreign
            server_cpu=$(awk -v own="$own" -v hz="$ticks_a_second" -v us="$wall" 'BEGIN { printf "%.2f", own / hz / (us / 1e6) }')
        fi
        awk -v a="$foreign" -v b="$foreign_max" 'BEGIN { exit !(a > b) }' || break
    done
    figure "$name/rate" "$(field transfers_per_second "$best")"
    figure "$name/p50_us" "$(field p50_us "$best")"
    figure "$name/p99_us" "$(field p99_us "$best")"
    figure "$name/max_us" "$(field max_us "$best")"
    figure "$name/cpu" "$server_cpu"
    figure "$name/foreign" "$best_foreign"
    echo "$name: $best foreign=$best_foreign" >&2
}
