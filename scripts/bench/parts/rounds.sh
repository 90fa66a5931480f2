# One payment a request, and batches: bare hyper, the same server on a plain file, echopay, point after point in rounds.
# shellcheck shell=bash disable=SC2034,SC2154 # names of scripts/bench-ratios and its other files

part_rounds() {
    local round connections bare plain
    for ((round = 1; round <= rounds; round++)); do
        echo "round $round of $rounds, load average $(cut -d' ' -f1-3 /proc/loadavg)" >&2
        start_bare
        bare=$address
        start_plain "$work/plain"
        plain=$address
        start_echopay "$work/data"
        for connections in 1 16 64 256; do
            point "bare/$connections" bare "$bare" --connections "$connections"
            point "plain/$connections" plain "$plain" --connections "$connections"
            point "echopay/$connections" echopay "$address" --connections "$connections"
        done
        point plain/batch plain "$plain" --connections 4 --batch 1000
        point echopay/batch echopay "$address" --connections 4 --batch 1000
        start parse "$release/examples/parse_http"
        point parse/batch parse "$address" --connections 4 --batch 1000
        stop parse
        stop bare
        stop plain
        stop echopay
        rm -rf "$work/data" "$work/plain"
    done
    printf '### One payment a request, %s rounds\n\n' "$rounds"
    printf '| connections | bare hyper, /s | same server on a plain file, /s | echopay, /s | echopay / bare | echopay / plain file | p50 / p99, ms | p99 / p50 | CPU µs a request (bare) | foreign cores |\n'
    printf '| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n'
    for connections in 1 16 64 256; do
        printf '| %s | %s | %s | %s | **%s** | %s | %s / %s | %s | %s (%s) | %s |\n' "$connections" \
            "$(cell "bare/$connections/rate")" "$(cell "plain/$connections/rate")" "$(cell "echopay/$connections/rate")" \
            "$(ratio "echopay/$connections/rate" "bare/$connections/rate")" \
            "$(ratio "echopay/$connections/rate" "plain/$connections/rate")" \
            "$(ms "echopay/$connections/p50_us")" "$(ms "echopay/$connections/p99_us")" \
            "$(quotient "$(median "echopay/$connections/p99_us")" "$(median "echopay/$connections/p50_us")" %.1f)" \
            "$(cpu_us_a_request "echopay/$connections")" "$(cpu_us_a_request "bare/$connections")" \
            "$(plain "echopay/$connections/foreign" 1 %.2f)"
    done
    printf '\n### Batches of 1,000 at 4 connections\n\n'
    printf '| parse alone, /s | same server on a plain file, /s | echopay, transfers/s | echopay / parse | echopay / plain file | p50 / p99 of a batch, ms | cores of the server | foreign cores |\n'
    printf '| --- | --- | --- | --- | --- | --- | --- | --- |\n'
    printf '| %s | %s | %s | **%s** | %s | %s / %s | %s | %s |\n' \
        "$(cell parse/batch/rate)" "$(cell plain/batch/rate)" "$(cell echopay/batch/rate)" \
        "$(ratio echopay/batch/rate parse/batch/rate)" "$(ratio echopay/batch/rate plain/batch/rate)" \
        "$(ms echopay/batch/p50_us %.1f)" "$(ms echopay/batch/p99_us %.1f)" \
        "$(plain echopay/batch/cpu 1 %.2f)" "$(plain echopay/batch/foreign 1 %.2f)"
}

cpu_us_a_request() {
    awk -v cores="$(median "$1/cpu")" -v rate="$(median "$1/rate")" 'BEGIN { if (rate + 0) printf "%.0f", cores / rate * 1e6 }'
}
