#!/usr/bin/env bash
# Loads an echopay of its own with batches of payments, kills it (SIGKILL) again and again, and after each start compares
# the journal with what was acknowledged. Ends with 1 when something acknowledged is gone.
#
#   scripts/soak.sh [SECONDS]                default 300, at most a day
#
# ECHOPAY        the binary             default target/release/echopay
# KILL_EVERY     seconds between kills  default 30; 0: never
# BATCH          payments a request     default 1000
# KAFKA_BROKERS  streams to them too; then the run ends when Kafka has acknowledged everything
#
# Needs bash and curl. Uses a free port and a temporary folder, and leaves neither process nor folder behind.
set -euo pipefail

seconds=${1:-300}
binary=${ECHOPAY:-target/release/echopay}
kill_every=${KILL_EVERY:-30}
batch=${BATCH:-1000}
((seconds > 0 && seconds <= 86400)) || { echo "SECONDS: 1 to 86400" >&2 && exit 64; }
[[ -x $binary ]] || { echo "$binary is not there: cargo build --release" >&2 && exit 64; }

folder=$(mktemp -d)
server=''
finish() {
    [[ -n $server ]] && kill -9 "$server" 2>/dev/null && wait "$server" 2>/dev/null
    rm -rf "$folder"
}
trap finish EXIT

start() {
    : >"$folder/out"
    "$binary" dev --listen 127.0.0.1:0 --data-dir "$folder/data" >"$folder/out" 2>>"$folder/log" &
    server=$!
    for _ in $(seq 600); do
        url=$(sed -n 's/^listening on //p' "$folder/out")
        [[ -n $url ]] && return
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    echo "it does not start; its log ends with:" >&2
    tail -n 5 "$folder/log" >&2
    exit 1
}

# number NAME: of the last answer.
number() { sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p" "$folder/answer"; }
rss_mib() { awk '/^VmRSS/ { printf "%d", $2 / 1024 }' "/proc/$server/status"; }
sequence() { curl -sS --max-time 30 "$url/api/v1/sequence" >"$folder/answer" && number "$1"; }

# Payments in a ring of 100 wallets: nobody runs dry.
awk -v count="$batch" 'BEGIN {
    printf "{\"transactions\":["
    for (i = 0; i < count; i++) {
        printf "%s{\"from_wallet\":\"00000000-0000-4000-8000-%012d\",", (i ? "," : ""), 1 + i % 100
        printf "\"to_wallet\":\"00000000-0000-4000-8000-%012d\",", 1 + (i + 1) % 100
        printf "\"amount\":0.01,\"currency\":\"USD-CBDC\"}"
    }
    printf "]}"
}' >"$folder/batch"

start
begun=$SECONDS next_kill=$kill_every kills=0 requests=0 acknowledged=0
printf '%8s %12s %12s %8s %8s\n' seconds payments sequence rss_mib kills
next_line=0
while ((SECONDS - begun < seconds)); do
    if curl -sS --max-time 30 -H 'Content-Type: application/json' -H 'Prefer: return=minimal' \
        --data-binary "@$folder/batch" "$url/api/v1/transactions/batch" >"$folder/answer" 2>/dev/null; then
        last=$(number last_sequence)
        [[ -n $last ]] || { echo "not an acknowledgement: $(head -c 300 "$folder/answer")" >&2 && exit 1; }
        acknowledged=$last requests=$((requests + 1))
    fi
    elapsed=$((SECONDS - begun))
    if ((elapsed >= next_line)); then
        next_line=$((elapsed + 10))
        printf '%8d %12d %12d %8d %8d\n' "$elapsed" $((requests * batch)) "$acknowledged" "$(rss_mib)" "$kills"
    fi
    if ((kill_every > 0 && elapsed >= next_kill)); then
        next_kill=$((elapsed + kill_every)) kills=$((kills + 1))
        # In the middle of a request, so that there is something to lose.
        curl -s --max-time 30 -H 'Content-Type: application/json' --data-binary "@$folder/batch" \
            "$url/api/v1/transactions/batch" >/dev/null 2>&1 &
        request=$!
        sleep "0.0$((RANDOM % 10))"
        kill -9 "$server"
        wait "$server" "$request" 2>/dev/null || true
        start
        durable=$(sequence durable)
        if ((durable < acknowledged)); then
            echo "LOST: acknowledged up to $acknowledged, the journal ends at $durable" >&2
            exit 1
        fi
    fi
done

if [[ -n ${KAFKA_BROKERS:-} ]]; then
    durable=$(sequence durable)
    for _ in $(seq 600); do
        published=$(sequence published)
        ((published >= durable)) && break
        sleep 0.5
    done
    echo "Kafka: acknowledged up to $published of $durable"
    ((published >= durable))
fi
kill -TERM "$server"
wait "$server" || { echo "it did not end well: $?" >&2 && exit 1; }
server=''
printf '%d payments acknowledged in %d s, %d kills, nothing lost\n' $((requests * batch)) "$seconds" "$kills"
