# How it scales: by wallets, connections, size of a batch and cores. One point each, no rounds: shapes, not figures.
# shellcheck shell=bash disable=SC2034,SC2154 # names of scripts/bench-ratios and its other files

# scaled NAME CORES FOLDER FLAG…: a point of a server on these cores (as taskset names them) and a new or filled folder.
scaled() {
    local name=$1 cores=$2 folder=$3
    shift 3
    start echopay taskset --cpu-list "$cores" env -u KAFKA_BROKERS "$release/echopay" dev \
        --listen 127.0.0.1:0 --data-dir "$folder"
    point "$name" echopay "$address" "$@"
    figure "$name/rss" "$(memory_mib VmRSS)"
    stop echopay TERM
}

scale_row() { # FIRST_CELL NAME_ON_ONE_CORE NAME_ON_ALL
    printf '| %s | %.0f | %s / %s | %.0f | %s / %s | %s |\n' "$1" \
        "$(median "$2/rate")" "$(ms "$2/p50_us")" "$(ms "$2/p99_us")" \
        "$(median "$3/rate")" "$(ms "$3/p50_us")" "$(ms "$3/p99_us")" "$(median "$3/rss")"
}

part_scale() {
    local all one=0 value name cores wallets filled
    all=0-$(($(nproc) - 1))
    printf '### How it scales: the server on one core and on %s, the load generator on any\n' "$(nproc)"
    printf '\n| single, connections | 1 core, /s | p50 / p99, ms | all cores, /s | p50 / p99, ms | memory, MiB |\n| --- | --- | --- | --- | --- | --- |\n'
    for value in 1 4 16 64 256 1024 4096; do
        for cores in "$one" "$all"; do
            scaled "scale/c$value/$cores" "$cores" "$work/data" --connections "$value"
            rm -rf "$work/data"
        done
        scale_row "$value" "scale/c$value/$one" "scale/c$value/$all"
    done
    printf '\n| transfers a batch, 4 connections | 1 core, transfers/s | p50 / p99, ms | all cores, transfers/s | p50 / p99, ms | memory, MiB |\n| --- | --- | --- | --- | --- | --- |\n'
    for value in 1 8 64 512 1000 4096 8192; do
        for cores in "$one" "$all"; do
            scaled "scale/b$value/$cores" "$cores" "$work/data" --connections 4 --batch "$value"
            rm -rf "$work/data"
        done
        scale_row "$value" "scale/b$value/$one" "scale/b$value/$all"
    done
    printf '\n| wallets, each opened before; 64 connections | 1 core, /s | p50 / p99, ms | all cores, /s | p50 / p99, ms | memory, MiB |\n| --- | --- | --- | --- | --- | --- |\n'
    for wallets in 1000 100000 "$wallets_max"; do
        filled=$work/filled
        start_echopay "$filled"
        load --connections 4 --batch 1000 --wallets "$wallets" --fill >&2
        stop echopay TERM
        for cores in "$one" "$all"; do
            name=scale/w$wallets/$cores
            scaled "$name" "$cores" "$filled" --connections 64 --wallets "$wallets"
        done
        rm -rf "$filled"
        scale_row "$wallets" "scale/w$wallets/$one" "scale/w$wallets/$all"
    done
}
