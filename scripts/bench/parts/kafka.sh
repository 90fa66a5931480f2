# What shipping every event to Kafka costs the payments, and how much of the producer's own rate it reaches. The broker
# shares the cores with all else; the CPU a payment is what a busy machine disturbs least.
# shellcheck shell=bash disable=SC2034,SC2154 # names of scripts/bench-ratios and its other files

# Until everything durable at `address` is acknowledged; sets `us_waited`.
wait_until_shipped() {
    local began=$EPOCHREALTIME deadline=$((SECONDS + 300)) marks
    until
        marks=$(curl -fsS --max-time 10 "http://$address/api/v1/sequence")
        [[ $(field published "$marks") == "$(field durable "$marks")" ]]
    do
        if ((SECONDS > deadline)); then
            echo 'not everything was shipped in five minutes' >&2
            exit 1
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
            exit 1
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
    line=$(TIMEFORMAT='%U %S'; { time load "$@" 2>&"$stderr"; } 2>"$work/time")
    us_waited=0
    if [[ -n $ships ]]; then wait_until_shipped; fi
    wall=$((${EPOCHREALTIME/[.,]/} - ${began/[.,]/}))
    payments=$((($(durable) - payments) / 4))
    own=$(($(process_ticks "${pids[echopay]}") - own)) java=$(($(broker_ticks) - java))
    busy=$(($(busy_ticks) - busy))
    load_cpu=$(tr , . <"$work/time" | awk '{ print $1 + $2 }')
    foreign=$(awk -v busy="$((busy - own - java))" -v hz="$ticks_a_second" -v load="$load_cpu" -v us="$wall" \
        'BEGIN { f = (busy / hz - load) / (us / 1e6); printf "%.2f", f < 0 ? 0 : f }')
    figure "$name/rate" "$(field transfers_per_second "$line")"
    figure "$name/p99_us" "$(field p99_us "$line")"
    figure "$name/cpu" "$(awk -v t="$own" -v hz="$ticks_a_second" -v n="$payments" 'BEGIN { printf "%.2f", t / hz / n * 1e6 }')"
    figure "$name/java" "$(awk -v t="$java" -v hz="$ticks_a_second" -v n="$payments" 'BEGIN { printf "%.2f", t / hz / n * 1e6 }')"
    figure "$name/shipped" "$(awk -v n="$((payments * 4))" -v us="$wall" 'BEGIN { printf "%.0f", n / us * 1e6 }')"
    figure "$name/behind_ms" "$((us_waited / 1000))"
    figure "$name/foreign" "$foreign"
    echo "$name: $line behind=$((us_waited / 1000))ms foreign=$foreign" >&2
}

part_kafka() {
    local round connections way ships topic us_waited
    cargo build --release --quiet --example bare_produce
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
                kafka_point "$way/$connections" "$ships" --seconds "$seconds" --connections "$connections"
            done
            if [[ -n $ships ]]; then
                kafka_point batch "$ships" --connections 4 --batch 1000 --requests 250
            fi
            stop echopay
            rm -rf "$work/data"
        done
        figure alone/shipped "$(field events_per_second \
            "$("$release/examples/bare_produce" --brokers "$brokers" --topic "$topic")")"
        start_shipping "half$round"
        kafka_point half 1 --seconds "$seconds" --connections 8
        figure half/ack_ms "$(quantile_ms echopay_kafka_commit_to_ack_seconds 0.99)"
        stop echopay
        rm -rf "$work/data"
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
            "$(median "off/$connections/cpu")" "$(median "on/$connections/cpu")" "$(median "on/$connections/java")" \
            "$(quotient "$(median "off/$connections/cpu")" \
                "$(awk -v a="$(median "on/$connections/cpu")" -v b="$(median "on/$connections/java")" 'BEGIN { print a + b }')")" \
            "$(median "on/$connections/behind_ms")" "$(median "on/$connections/foreign")"
    done
    printf '\n| batches of 1,000: events/s to the last acknowledgement | producer alone, events/s | ratio |\n| --- | --- | --- |\n'
    printf '| %s | %s | **%s** |\n' "$(cell batch/shipped)" "$(cell alone/shipped)" "$(ratio batch/shipped alone/shipped)"
    printf '\nCommit to acknowledgement at %s payments/s (8 connections): p99 %s ms. Memory after 1,000,000 transfers: %s MiB (highest %s).\n' \
        "$(cell half/rate)" "$(cell half/ack_ms 1 %.1f)" "$(median million/rss)" "$(median million/hwm)"
}
