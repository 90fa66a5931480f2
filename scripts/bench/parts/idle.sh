# What a thousand subscribers that hear nothing, and somebody who reads the metrics, cost the payments.
# shellcheck shell=bash disable=SC2034,SC2154 # names of scripts/bench-ratios and its other files

part_idle() {
    local round connections server alone watched
    for ((round = 1; round <= rounds; round++)); do
        start_echopay "$work/alone"
        alone=$address
        pids[alone]=${pids[echopay]} stdouts[alone]=${stdouts[echopay]}
        unset "pids[echopay]" "stdouts[echopay]"
        start_echopay "$work/watched"
        watched=$address
        start subscribers "$release/examples/idle_subscribers" "$watched" 1000
        (while sleep 1; do curl -fsS --max-time 10 -o /dev/null "http://$watched/metrics" || exit 0; done) &
        pids[scraper]=$!
        for connections in 64 256; do
            point "alone/$connections" alone "$alone" --connections "$connections"
            point "watched/$connections" echopay "$watched" --connections "$connections"
        done
        for server in scraper subscribers alone echopay; do stop "$server"; done
        rm -rf "$work/alone" "$work/watched"
    done
    printf '### 1,000 idle subscribers, and metrics read once a second\n\n'
    printf '| connections | without, /s | with, /s | with / without |\n| --- | --- | --- | --- |\n'
    for connections in 64 256; do
        printf '| %s | %s | %s | **%s** |\n' "$connections" "$(cell "alone/$connections/rate")" \
            "$(cell "watched/$connections/rate")" "$(ratio "watched/$connections/rate" "alone/$connections/rate")"
    done
}
