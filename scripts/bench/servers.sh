# The servers that are measured: built, started, asked, stopped. Sourced by scripts/bench-ratios.
# shellcheck shell=bash disable=SC2034,SC2154 # names of scripts/bench-ratios and its other files

declare -A pids=() stdouts=()
address='' took_ms=''

# build: everything that is measured, and what measures it.
build() {
    local example examples=()
    for example in bare_http plain_file parse_http bare_produce idle_subscribers; do examples+=(--example "$example"); done
    cargo build --locked --release --quiet --bin echopay "${examples[@]}"
}

# stop NAME [SIGNAL]: ends that server, and waits until it is gone.
stop() {
    local pid=${pids[$1]:-} stdout=${stdouts[$1]:-}
    [[ -n $pid ]] || return 0
    unset "pids[$1]" "stdouts[$1]"
    kill -s "${2:-KILL}" "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    [[ -z $stdout ]] || exec {stdout}<&-
}
stop_all() {
    local name
    for name in "${!pids[@]}"; do stop "$name"; done
}

# start NAME COMMAND…: starts a server, waits for its first line; sets `address`, and `took_ms` until then. False when it
# does not come.
start() {
    local name=$1 line='' stdout began=$EPOCHREALTIME
    shift
    rm -f "$work/stdout"
    mkfifo "$work/stdout"
    "$@" >"$work/stdout" 2>"$work/$name.log" &
    pids[$name]=$!
    # Open until the server is stopped: nobody should run into a closed pipe.
    exec {stdout}<"$work/stdout"
    stdouts[$name]=$stdout
    if ! IFS= read -r -t 300 line <&"$stdout"; then
        echo "$name did not start: $line $(tail -3 "$work/$name.log")" >&2
        stop "$name"
        return 1
    fi
    took_ms=$(((${EPOCHREALTIME/[.,]/} - ${began/[.,]/}) / 1000))
    address=${line#listening on http://}
}
start_bare() { start bare "$release/examples/bare_http"; }
start_echopay() { # FOLDER [FLAG…]
    start echopay env -u KAFKA_BROKERS "$release/echopay" dev --listen 127.0.0.1:0 --data-dir "$1" "${@:2}"
}
start_plain() { # FOLDER
    start plain env -u KAFKA_BROKERS "$release/examples/plain_file" dev --listen 127.0.0.1:0 --data-dir "$1"
}

# Nothing is audited while something is measured: that is what the tests are for. The same wallets in each run.
seeded=(--seed 1 --no-audit)
timed=(--warmup 0.5 --duration "$seconds")
# load FLAG…: the load generator against the last server started; prints its result.
load() { "$release/echopay" bench --json "${seeded[@]}" --url "http://$address" "$@"; }
load_batches() { load --connections 4 --batch 1000 --requests "$1" >/dev/null; }

metrics() { curl -fsS --max-time 10 "http://$address/metrics"; }
metric() { metrics | awk -v name="$1" '$1 == name { print $2 }'; }
durable() { curl -fsS --max-time 10 "http://$address/api/v1/sequence" | sed 's/.*"durable":\([0-9]*\).*/\1/'; }
memory_mib() { awk -v key="$1:" '$1 == key { printf "%.0f\n", $2 / 1024 }' "/proc/${pids[echopay]}/status"; }
disk_bytes() { du --summarize --block-size=1 "$1" | cut -f1; }

# quantile_ms NAME Q [BEFORE]: of a histogram of seconds, on a straight line within its bucket; without what is in BEFORE,
# earlier metrics of the same server.
quantile_ms() {
    metrics | awk -v name="$1" -v q="$2" '
        index($1, name "_bucket{le=\"") != 1 { next }
        is_before { before[$1] = $2; next }
        {
            bound = $1; sub(/.*le="/, "", bound); sub(/".*/, "", bound)
            n++; bounds[n] = bound; counts[n] = $2 - before[$1]
        }
        END {
            rank = q * counts[n]
            for (i = 1; i < n && counts[i] < rank; i++) { low = bounds[i]; below = counts[i] }
            share = counts[i] > below ? (rank - below) / (counts[i] - below) : 1
            printf "%.4g\n", 1000 * (low + share * (bounds[i] - low))
        }' is_before=1 "${3:-/dev/null}" is_before=0 -
}
