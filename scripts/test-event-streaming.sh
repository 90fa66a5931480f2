#!/usr/bin/env bash
# Walks one payment through a running echopay and checks what comes out at each end: HTTP, events, metrics, Kafka.
#
#   scripts/test-event-streaming.sh [URL]          default http://127.0.0.1:8001
#
# TOKEN          bearer token, for `echopay serve`: then the two wallets are opened and one is given money
# KAFKA_BROKERS  with `kcat` installed, the topic itself is read too; without either, the service's own word is taken:
#                its published watermark passes the payment only when Kafka has acknowledged it
# KAFKA_TOPIC    default echopay.transactions
#
# Needs bash and curl. Prints each check; ends with 1 when one failed.
set -uo pipefail

url=${1:-http://127.0.0.1:8001}
url=${url%/}
topic=${KAFKA_TOPIC:-echopay.transactions}
passed=0 failed=0 skipped=0
status='' body=''

pass() { passed=$((passed + 1)) && printf 'ok       %s\n' "$1"; }
skip() { skipped=$((skipped + 1)) && printf 'skipped  %s\n' "$1"; }
miss() {
    failed=$((failed + 1))
    printf 'FAILED   %s\n         status %s, body: %s\n' "$1" "$status" "${body:0:400}"
}

# call METHOD PATH [JSON]: sets status and body.
call() {
    local options=(-sS --max-time 10 -X "$1" -w '\n%{http_code}')
    [[ -n ${TOKEN:-} ]] && options+=(-H "Authorization: Bearer $TOKEN")
    [[ -n ${3:-} ]] && options+=(-H 'Content-Type: application/json' -d "$3")
    local answer
    answer=$(curl "${options[@]}" "$url$2" 2>&1) || true
    status=${answer##*$'\n'}
    body=${answer%$'\n'*}
}

# expect WHAT STATUS [TEXT…]: the last answer had this status and holds every text.
expect() {
    local what=$1 text
    if [[ $status != "$2" ]]; then
        miss "$what (expected status $2)"
        return
    fi
    for text in "${@:3}"; do
        if [[ $body != *"$text"* ]]; then
            miss "$what (expected $text)"
            return
        fi
    done
    pass "$what"
}

# field NAME: the first value of that name in the last body, which is compact JSON.
field() { sed -n "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/p" <<<"$body" | head -n 1; }

# metric NAME: its value; empty when it is not there. The name may carry labels.
metric() {
    call GET /metrics
    local line
    while IFS= read -r line; do
        if [[ ${line% *} == "$1" ]]; then
            printf '%s' "${line##* }"
            return
        fi
    done <<<"$body"
}

uuid() { cat /proc/sys/kernel/random/uuid 2>/dev/null || uuidgen | tr 'A-F' 'a-f'; }

printf 'echopay at %s\n' "$url"
call GET /health
expect 'the service is healthy' 200 '"status":"healthy"'
if ((failed)); then
    printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
    exit 1
fi

call GET /api/v1/ws/info
expect 'it tells where to subscribe' 200 '"websocket_url":' '"active_connections":' '"journal":'

from=$(uuid) to=$(uuid)
if [[ -n ${TOKEN:-} ]]; then
    call POST /api/v1/wallets "{\"wallet_id\":\"$from\",\"currency\":\"USD-CBDC\"}"
    expect 'the paying wallet is opened' 201
    call POST /api/v1/wallets "{\"wallet_id\":\"$to\",\"currency\":\"USD-CBDC\"}"
    expect 'the receiving wallet is opened' 201
    call POST /api/v1/issuances "{\"wallet_id\":\"$from\",\"amount\":100,\"currency\":\"USD-CBDC\"}"
    expect 'money is issued to the paying wallet' 201
fi

call POST /api/v1/transactions \
    "{\"from_wallet\":\"$from\",\"to_wallet\":\"$to\",\"amount\":12.50,\"currency\":\"USD-CBDC\",\"metadata\":{\"check\":\"streaming\"}}"
expect 'a payment is completed and durable' 201 '"transaction_id":' '"status":"completed"' '"sequence":'
id=$(field transaction_id)

call GET "/api/v1/transactions/$id"
expect 'it can be read back, exact to the cent' 200 "\"id\":\"$id\"" '"amount":12.5' '"audit_trail":'

call PATCH "/api/v1/transactions/$id/fraud-score" '{"score":0.85}'
expect 'its fraud score is set' 200 'Fraud score updated successfully'

call PATCH "/api/v1/transactions/$id/status" '{"status":"reversed","details":{"reason":"check"}}'
expect 'it is reversed' 200 'Transaction status updated successfully' '"sequence":'
sequence=$(field sequence)

call PATCH "/api/v1/transactions/$id/status" '{"status":"completed"}'
expect 'a reversed payment cannot be completed' 409 INVALID_STATUS_TRANSITION

call GET "/api/v1/transactions/$id"
expect 'the change can be read at once' 200 '"status":"reversed"' '"fraud_score":0.85'

call GET "/api/v1/events?transaction_id=$id&limit=100"
expect 'every event of it is there, numbered' 200 '"type":"transaction.created"' \
    '"type":"transaction.completed"' '"type":"balance.updated"' '"type":"fraud.score.updated"' \
    '"type":"transaction.reversed"' "\"sequence\":${sequence:-none}"

durable=$(metric echopay_durable_sequence)
if [[ ${durable:-0} -ge ${sequence:-1} ]]; then
    pass 'the metrics say it is durable'
else
    miss "the metrics say it is durable (durable ${durable:-none}, expected ${sequence:-none})"
fi

if [[ -z $durable || -z $sequence ]]; then
    skip 'Kafka: without the metrics and the sequence nobody can tell'
elif [[ $(metric 'echopay_kafka_state{state="off"}') == 1 ]]; then
    skip 'Kafka: the service has no brokers, its events wait in the journal'
else
    published=
    for _ in $(seq 150); do
        published=$(metric echopay_published_sequence)
        [[ ${published:-0} -ge ${sequence:-1} ]] && break
        sleep 0.2
    done
    if [[ ${published:-0} -ge ${sequence:-1} ]]; then
        pass "Kafka has acknowledged all of it (${published})"
    else
        miss "Kafka has acknowledged all of it (published ${published:-none}, expected ${sequence:-none})"
    fi
    if [[ -n ${KAFKA_BROKERS:-} ]] && command -v kcat >/dev/null; then
        records=$(timeout 30 kcat -b "$KAFKA_BROKERS" -t "$topic" -C -o beginning -e -q 2>/dev/null | grep -cF "$id")
        # Created, completed, two balances; the score; reversed, two balances.
        if [[ ${records:-0} -ge 8 ]]; then
            pass "the topic holds its records ($records)"
        else
            status=- body=
            miss "the topic holds its records (${records:-0}, expected 8 or more)"
        fi
    else
        skip 'Kafka: the topic is not read (needs KAFKA_BROKERS and kcat)'
    fi
fi

printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
((failed == 0))
