# Look-ups while payments run at full rate. The look-ups come on schedule (an open loop): one that has to wait counts from
# when it was due.
# shellcheck shell=bash disable=SC2034,SC2154 # names of scripts/bench-ratios and its other files

reads_a_second=1000

# look_up NAME: of the requests one in a hundred pays, so that there are transactions to look up.
look_up() {
    local name=$1 line foreign cores what
    measured "$name" echopay "$address" --connections 4 --rate "$reads_a_second" --reads 99 "${timed[@]}" || return 0
    for what in balance transaction; do
        figure "$name/$what/rate" "$(field "${what}_reads.requests" "$line" | awk -v s="$seconds" '{ printf "%.0f", $1 / s }')"
        figure "$name/$what/p50_us" "$(field "${what}_reads.p50_us" "$line")"
        figure "$name/$what/p99_us" "$(field "${what}_reads.p99_us" "$line")"
    done
    figure "$name/unsent" "$(field unsent "$line")"
    echo "$name: balance p99 $(field balance_reads.p99_us "$line") us," \
        "transaction p99 $(field transaction_reads.p99_us "$line") us, unsent $(field unsent "$line")" >&2
}

part_reads() {
    local round connections what
    for ((round = 1; round <= rounds; round++)); do
        start_echopay "$work/data"
        load --fill >/dev/null
        look_up quiet
        for connections in 64 256; do
            "$release/echopay" bench --json "${seeded[@]}" --url "http://$address" --connections "$connections" \
                --duration 600 >"$work/writer" &
            pids[writer]=$!
            sleep 1
            look_up "busy$connections"
            # Asked to stop, it tells what it did.
            stop writer TERM
            figure "busy$connections/payments" "$(field transfers_per_second "$(<"$work/writer")")"
        done
        stop echopay
        rm -rf "$work/data"
    done
    printf '### Look-ups, %s a second on schedule, alone and beside payments at full rate\n\n' "$reads_a_second"
    printf '| beside | payments, /s | balance p50 / p99, ms | transaction p50 / p99, ms | look-ups never sent |\n'
    printf '| --- | --- | --- | --- | --- |\n'
    for what in quiet busy64 busy256; do
        case $what in
        quiet) printf '| nothing | – |' ;;
        *) printf '| payments from %s connections | %s |' "${what#busy}" "$(cell "$what/payments")" ;;
        esac
        printf ' %s / **%s** | %s / **%s** | %s |\n' \
            "$(ms "$what/balance/p50_us")" "$(ms "$what/balance/p99_us")" \
            "$(ms "$what/transaction/p50_us")" "$(ms "$what/transaction/p99_us")" "$(plain "$what/unsent")"
    done
}
