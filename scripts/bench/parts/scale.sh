# How it scales: by connections, size of a batch, wallets and what hears along; on one core and on all. One point each, no
# rounds: shapes, not figures. Also draws docs/scale.svg, when it writes.
# shellcheck shell=bash disable=SC2034,SC2154 # names of scripts/bench-ratios and its other files

# scaled NAME CORES FOLDER FLAG…: a point of a server on these cores (as taskset names them) and a new or filled folder.
scaled() {
    local name=$1 cores=$2 folder=$3 ships_to=()
    shift 3
    if ((SECONDS > scale_deadline)); then
        failed "$name" "the part had used its $scale_seconds s (SCALE_SECONDS)"
        return 0
    fi
    if [[ -n $ships ]]; then ships_to=(--kafka-brokers "$brokers" --kafka-topic "${name//[!a-z0-9]/.}"); fi
    start echopay taskset --cpu-list "$cores" env -u KAFKA_BROKERS "$release/echopay" dev \
        --listen 127.0.0.1:0 --data-dir "$folder" "${ships_to[@]}" || {
        failed "$name" 'the server did not start'
        return 0
    }
    point "$name" echopay "$address" "$@"
    figure "$name/rss" "$(memory_mib VmRSS || true)"
    # What is thrown away needs no orderly stop, which takes half a minute with ten million wallets.
    if [[ $folder == "$work/data" ]]; then stop echopay; else stop echopay TERM; fi
}

# on_each NAME FLAG…: on one core and on all, in the folder `filled` or in new ones.
on_each() {
    local name=$1 cores
    shift
    for cores in "$one" "$all"; do
        scaled "$name/$cores" "$cores" "${filled:-$work/data}" "$@"
        rm -rf "$work/data"
    done
}

# heard_by NAME FLAG…: with subscribers, who only count in a run that is audited.
heard_by() {
    local seeded=(--seed 1)
    on_each "$1" --connections 64 "${@:2}"
}

scale_head() { # WHAT
    printf '\n| %s | 1 core, transfers/s | p50 / p99, ms | %s cores, transfers/s | p50 / p99, ms | memory, MiB |\n' "$1" "$(nproc)"
    printf '| --- | --- | --- | --- | --- | --- |\n'
}
scale_row() { # FIRST_CELL NAME
    printf '| %s | %s | %s / %s | %s | %s / %s | %s |\n' "$1" \
        "$(plain "$2/$one/rate")" "$(ms "$2/$one/p50_us")" "$(ms "$2/$one/p99_us")" \
        "$(plain "$2/$all/rate")" "$(ms "$2/$all/p50_us")" "$(ms "$2/$all/p99_us")" "$(plain "$2/$all/rss")"
}

hear_along() {
    on_each scale/alone --connections 64
    heard_by scale/everything --subscribers 1
    heard_by scale/wallets "${by_wallet[@]}"
    if start_broker; then
        ships=1
        on_each scale/kafka --connections 64
        heard_by scale/both "${by_wallet[@]}"
        ships=''
        stop broker
    else
        failed scale/kafka 'there is no broker'
    fi
}

part_scale() {
    local all one=0 value began left filled='' ships='' tries=1 scale_deadline=$((SECONDS + scale_seconds))
    local connections=() batches=(1 8 64 512 1000 4096 8192) wallets=(1000 100000 "$wallets_max")
    local seconds=${SECONDS_A_POINT:-1}
    local timed=(--warmup 0.5 --duration "$seconds") by_wallet=(--subscribers 1000 --subscribe-to wallet)
    all=0-$(($(nproc) - 1))
    for value in 1 4 16 64 256 1024 4096; do
        if ((value <= connections_max)); then connections+=("$value"); fi
    done

    [[ $scale_of == *connections* ]] || connections=()
    [[ $scale_of == *batches* ]] || batches=()
    [[ $scale_of == *wallets* ]] || wallets=()
    for value in "${connections[@]}"; do on_each "scale/c$value" --connections "$value"; done
    for value in "${batches[@]}"; do on_each "scale/b$value" --connections 4 --batch "$value"; done
    if [[ $scale_of == *beside* ]]; then hear_along; fi
    # Last, as the largest takes longest: each wallet is opened before, by transfers in batches of 1,000 among them.
    for value in "${wallets[@]}"; do
        filled=$work/filled
        start_echopay "$filled"
        began=$EPOCHREALTIME
        left=$((scale_deadline - SECONDS))
        if ((left > 0)) && timeout "$left" "$release/echopay" bench --json "${seeded[@]}" --url "http://$address" \
            --connections 4 --batch 1000 --wallets "$value" --fill >/dev/null; then
            figure "fill/$value" $(((${EPOCHREALTIME/[.,]/} - ${began/[.,]/}) / 1000))
            echo "$value wallets opened in $(plain "fill/$value") ms" >&2
            stop echopay TERM
            on_each "scale/w$value" --connections 64 --wallets "$value"
        else
            failed "scale/w$value" "the wallets were not opened within the part's $scale_seconds s (SCALE_SECONDS)"
            stop echopay
        fi
        rm -rf "$filled"
    done

    python3 scripts/bench/scale_svg.py "$one" "$all" <"$figures" >"$target/scale.svg"
    if [[ -n $writes ]]; then cp "$target/scale.svg" docs/scale.svg; fi
    printf '![Throughput and p99 by connections, batch, wallets and what hears along](scale.svg)\n\n'
    printf '### How it scales: the server on one core and on %s, the load generator on any\n' "$(nproc)"
    scale_head 'single payments, connections'
    for value in "${connections[@]}"; do scale_row "$value" "scale/c$value"; done
    scale_head 'transfers a batch, 4 connections'
    for value in "${batches[@]}"; do scale_row "$value" "scale/b$value"; done
    scale_head 'wallets, each opened before; 64 connections'
    for value in "${wallets[@]}"; do scale_row "$value" "scale/w$value"; done
    printf '\nOpening them by batches of 1,000 transfers took'
    for value in "${wallets[@]}"; do printf '%s %s s' "${comma-}" "$(plain "fill/$value" 1000 %.1f)" && local comma=,; done
    printf '.\n'
    scale_head 'beside it, 64 connections'
    scale_row nothing scale/alone
    scale_row 'a subscriber to everything' scale/everything
    scale_row '1,000 subscribers, each to a wallet' scale/wallets
    scale_row 'Kafka, a broker on the same cores' scale/kafka
    scale_row 'both: Kafka, and 1,000 subscribers' scale/both
}
