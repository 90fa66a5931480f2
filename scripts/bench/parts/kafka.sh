# What shipping every event to Kafka costs the payments, and how much of the producer's own rate it reaches. The broker
# shares the cores with all else; the CPU a payment is what a busy machine disturbs least.
# shellcheck shell=bash disable=SC2034,SC2154 # names of scripts/bench-ratios and its other files

# A number of the flat object that tells how far everything is: asked often, so without another program.
mark() {
    local behind=${2#*\""$1"\":}
    echo "${behind%%[,\}]*}"
}

# Until everything durable at `address` is acknowledged; sets `us_waited`.
wait_until_shipped() {
    local began=$EPOCHREALTIME deadline=$((SECONDS + 300)) marks
    until
        marks=$(curl -fsS --max-time 10 "http://$address/api/v1/sequence")
        [[ $(mark published "$marks") == "$(mark durable "$marks")" ]]
    do
        if ((SECONDS > deadline)); then
            echo 'not everything was shipped in five minutes' >&2
            return 1
        fi
        sleep 0.01
    done
    us_waited=$((${EPOCHREALTIME/[.,]/} - ${began/[.,]/}))
}

# start_shipping TOPIC: a server that is connected before anything is measured.
start_shipping() {
    local deadline=$((SECONDS + 60))
    start_echopay "$work/data" --kafka-brokers "$brokers" --kafka-topic "$1"
    until [[ $(metric 'echopay_kafka_state{state="running"}') == 1 ]]; do
        if ((SECONDS > deadline)); then
            echo "not connected: $(tail -3 "$work/echopay.log")" >&2
            return 1
        fi
        sleep 0.05
    done
}

# kafka_point NAME SHIPS FLAG…: the load generator against `address`, with the CPU of the server and of the broker for
# each payment, to the last acknowledgement.
kafka_point() {
    local name=$1 ships=$2 own java line began wall payments busy foreign load_cpu
    shift 2
    busy=$(busy_ticks) own=$(process_ticks "${pids[echopay]}") java=$(broker_ticks) began=$EPOCHREALTIME
    payments=$(durable)
    if ! line=$(TIMEFORMAT='%U %S'; { time load "$@" 2>&"$stderr"; } 2>"$work/time"); then
        failed "$name" "$(field failures.0 "$line")"
        figure "$name/shipped" gap
        return 0
    fi
    us_waited=0
    if [[ -n $ships ]] && ! wait_until_shipped; then
        failed "$name" 'not everything was shipped in five minutes'
        figure "$name/shipped" gap
        return 0
    fi
    wall=$((${EPOCHREALTIME/[.,]/} - ${began/[.,]/}))
    payments=$((($(durable) - payments) / 4))
    own=$(($(process_ticks "${pids[echopay]}") - own)) java=$(($(broker_ticks) - java))
    busy=$(($(busy_ticks) - busy))
    load_cpu=$(tr , . <"$work/time" | awk '{ print $1 + $2 }')
    foreign=$(awk -v busy="$((busy - own - java))" -v hz="$ticks_a_second" -v load="$load_cpu" -v us="$wall" \
        'BEGIN { f = (busy / hz - load) / (us / 1e6); printf "%.2f", f < 0 ? 0 : f }')
    figure "$name/rate" "$(field transfers_per_second "$line")"
    figure "$name/p99_us" "$(field writes.p99_us "$line")"
    figure "$name/cpu" "$(awk -v t="$own" -v hz="$ticks_a_second" -v n="$payments" 'BEGIN { printf "%.2f", t / hz / n * 1e6 }')"
    figure "$name/java" "$(awk -v t="$java" -v hz="$ticks_a_second" -v n="$payments" 'BEGIN { printf "%.2f", t / hz / n * 1e6 }')"
    figure "$name/shipped" "$(awk -v n="$((payments * 4))" -v us="$wall" 'BEGIN { printf "%.0f", n / us * 1e6 }')"
    figure "$name/behind_ms" "$((us_waited / 1000))"
    figure "$name/foreign" "$foreign"
    echo "$name: $(field transfers_per_second "$line")/s behind=$((us_waited / 1000))ms foreign=$foreign" >&2
}

# half_load ROUND: half of what it did a moment ago, on schedule; again while others disturb it, and the least disturbed
# counts.
half_load() {
    local try rate ack best_ack='' best_rate='' best_foreign=99 foreign
    rate=$(awk -F'\t' '$1 == "on/64/rate" && $2 != "gap" { rate = $2 } END { printf "%.0f", rate / 2 }' "$figures")
    for ((try = 1; try <= 3; try++)); do
        start_shipping "half$1.$try"
        # What a producer, a topic and their first batches need is no delay of what follows.
        load --connections 64 --rate "$rate" --warmup 0 --duration 1 >/dev/null
        metrics >"$work/before"
        kafka_point "half.try" 1 "${timed[@]}" --connections 64 --rate "$rate"
        ack=$(quantile_ms echopay_kafka_commit_to_ack_seconds 0.99 "$work/before")
        stop echopay
        rm -rf "$work/data"
        foreign=$(last half.try/foreign)
        if awk -v a="$foreign" -v b="$best_foreign" 'BEGIN { exit !(a < b) }'; then
            best_foreign=$foreign best_ack=$ack best_rate=$(last half.try/rate)
        fi
        awk -v a="$foreign" -v b="$foreign_max" 'BEGIN { exit !(a > b) }' || break
    done
    figure half/ack_ms "$best_ack"
    figure half/rate "$best_rate"
    figure half/foreign "$best_foreign"
    echo "half load: $best_rate of $rate payments/s, p99 $best_ack ms" >&2
}
last() { awk -F'\t' -v name="$1" '$1 == name { value = $2 } END { print value }' "$figures"; }

part_kafka() {
    local round connections way ships topic us_waited
    start_broker
    # Round 0 warms the broker up.
    for ((round = 0; round <= rounds; round++)); do
        topic=bench$round
        for way in off on; do
            if [[ $way == on ]]; then
                ships=1
                start_shipping "$topic"
            else
                ships=''
                start_echopay "$work/data"
            fi
            for connections in 64 256; do
                kafka_point "$way/$connections" "$ships" "${timed[@]}" --connections "$connections"
            done
            if [[ -n $ships ]]; then
                kafka_point batch "$ships" --connections 4 --batch 1000 --requests 1000
            fi
            stop echopay
            rm -rf "$work/data"
        done
        figure alone/shipped "$(field events_per_second \
            "$("$release/examples/bare_produce" --brokers "$brokers" --topic "$topic" --payments 1000000)")"
        half_load "$round"
        if ((round == 0)); then : >"$figures"; fi
    done
    start_shipping memory
    load_batches 1000
    wait_until_shipped
    figure million/rss "$(memory_mib VmRSS)"
    figure million/hwm "$(memory_mib VmHWM)"
    stop echopay
    rm -rf "$work/data"

    printf '### Kafka on (four events a payment) and off\n\n'
    printf '| connections | off, /s | on, /s | on / off | CPU a payment, us: server off, on, broker | all CPU off / on | behind at the end, ms | foreign cores |\n'
    printf '| --- | --- | --- | --- | --- | --- | --- | --- |\n'
    for connections in 64 256; do
        printf '| %s | %s | %s | **%s** | %s, %s, %s | %s | %s | %s |\n' "$connections" \
            "$(cell "off/$connections/rate")" "$(cell "on/$connections/rate")" \
            "$(ratio "on/$connections/rate" "off/$connections/rate")" \
            "$(plain "off/$connections/cpu" 1 %.1f)" "$(plain "on/$connections/cpu" 1 %.1f)" \
            "$(plain "on/$connections/java" 1 %.1f)" \
            "$(quotient "$(median "off/$connections/cpu")" \
                "$(awk -v a="$(median "on/$connections/cpu")" -v b="$(median "on/$connections/java")" 'BEGIN { print a + b }')")" \
            "$(plain "on/$connections/behind_ms")" "$(plain "on/$connections/foreign" 1 %.2f)"
    done
    printf '\n| batches of 1,000: events/s to the last acknowledgement | producer alone, events/s | ratio |\n| --- | --- | --- |\n'
    printf '| %s | %s | **%s** |\n' "$(cell batch/shipped)" "$(cell alone/shipped)" "$(ratio batch/shipped alone/shipped)"
    printf '\nCommit to acknowledgement at half load (%s payments/s on schedule, %s foreign cores): p99 **%s ms**. Memory after 1,000,000 transfers: %s MiB (highest **%s**).\n' \
        "$(cell half/rate)" "$(plain half/foreign 1 %.2f)" "$(cell half/ack_ms 1 %.1f)" "$(plain million/rss)" "$(plain million/hwm)"
}
