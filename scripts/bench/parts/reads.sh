# Look-ups while payments run at full rate, and what they do to those.
# shellcheck shell=bash disable=SC2034,SC2154 # names of scripts/bench-ratios and its other files

part_reads() {
    local round what writer busy_line
    for ((round = 1; round <= rounds; round++)); do
        start_echopay "$work/data"
        for what in balance transaction; do
            point "quiet/$what" echopay "$address" --connections 4 --reads "$what"
            load --connections 64 --seconds 600 >"$work/writer" &
            writer=$!
            sleep 1
            # Straight: the payments beside it are no foreign program.
            busy_line=$(load --connections 4 --reads "$what" --seconds "$seconds")
            echo "busy/$what: $busy_line" >&2
            figure "busy/$what/rate" "$(field transfers_per_second "$busy_line")"
            figure "busy/$what/p50_us" "$(field p50_us "$busy_line")"
            figure "busy/$what/p99_us" "$(field p99_us "$busy_line")"
            kill "$writer" 2>/dev/null || true
            wait "$writer" 2>/dev/null || true
        done
        stop echopay
        rm -rf "$work/data"
    done
    printf '### Look-ups by 4 connections while 64 pay at full rate\n\n'
    printf '| look-up | quiet: /s | p50 / p99, ms | under payments: /s | p50 / p99, ms |\n| --- | --- | --- | --- | --- |\n'
    for what in balance transaction; do
        printf '| %s | %s | %s / %s | %s | %s / **%s** |\n' "$what" \
            "$(cell "quiet/$what/rate")" "$(ms "quiet/$what/p50_us")" "$(ms "quiet/$what/p99_us")" \
            "$(cell "busy/$what/rate")" "$(ms "busy/$what/p50_us")" "$(ms "busy/$what/p99_us")"
    done
}
