# Memory and disk after a fill, then starts after kill -9: until it listens, the replay alone, memory.
# shellcheck shell=bash disable=SC2034,SC2154 # names of scripts/bench-ratios and its other files

forget_pages() {
    sync
    find "$1" -type f -exec dd if={} iflag=nocache count=0 status=none \;
}

# recover NAME FOLDER TIMES HOW DURABLE: starts on copies of a killed store; HOW is warm, cold or replay.
recover() {
    local name=$1 folder=$2 times=$3 how=$4 expected=$5 turn found
    for ((turn = 1; turn <= times; turn++)); do
        cp -a "$folder" "$work/copy"
        [[ $how == replay ]] && rm -rf "$work/copy/checkpoint"
        if [[ $how == cold ]]; then forget_pages "$work/copy"; else sync; fi
        start_echopay "$work/copy" --log-format json --log-level info
        figure "$name/$how" "$took_ms"
        figure "$name/$how/rss" "$(memory_mib VmRSS)"
        figure "$name/$how/replay" "$(replay_rate)"
        found=$(durable)
        stop echopay
        rm -rf "$work/copy"
        if [[ $found != "$expected" ]]; then
            echo "$name, $how: $expected was acknowledged, $found came back" >&2
            exit 1
        fi
        echo "$name, $how: $took_ms ms, $(tail -1 "$figures" | cut -f2) entries/s" >&2
    done
}

# Entries a second of the replay, as the start's log tells; nothing when there were too few to tell.
replay_rate() {
    sed -n 's/.*"message":"books are open".*/&/p' "$work/echopay.log" | awk '
        { match($0, /"replayed":[0-9]+/); count = substr($0, RSTART + 11, RLENGTH - 11)
          match($0, /"took":"[0-9.]+[mµn]?s/); took = substr($0, RSTART + 8, RLENGTH - 8)
          scale = took ~ /ms/ ? 1e3 : took ~ /µs/ ? 1e6 : took ~ /ns/ ? 1e9 : 1
          if (count > 10000) printf "%.0f\n", count * scale / took }'
}

part_recovery() {
    local killed=$work/killed expected rounds_before deadline entries bytes payload_bytes
    start_echopay "$killed"
    load_batches "$thousands"
    expected=$(durable)
    figure rss "$(memory_mib VmRSS)"
    figure hwm "$(memory_mib VmHWM)"
    entries=$(metric echopay_commit_entries_sum)
    payload_bytes=$(metric echopay_commit_payload_bytes_total)
    stop echopay
    bytes=$(disk_bytes "$killed")
    recover busy "$killed" 5 warm "$expected"
    recover busy "$killed" 5 cold "$expected"

    # Once more on the same store: a round of checkpoints ends, a little is added, and it is killed again.
    start_echopay "$killed"
    load_batches 1
    rounds_before=$(metric echopay_checkpoint_rounds_total)
    deadline=$((SECONDS + 180))
    until (($(metric echopay_checkpoint_rounds_total) >= rounds_before + 2)); do
        if ((SECONDS > deadline)); then
            echo 'no round of checkpoints ended in three minutes' >&2
            exit 1
        fi
        load_batches 1
        sleep 1
    done
    load_batches 20
    expected=$(durable)
    stop echopay
    recover checkpointed "$killed" 5 warm "$expected"
    recover checkpointed "$killed" 5 cold "$expected"
    recover checkpointed "$killed" 5 replay "$expected"
    rm -rf "$killed"

    printf '### After %s,000 transfers and kill -9: until it listens again\n\n| | ms | replay, entries/s | memory then, MiB |\n| --- | --- | --- | --- |\n' "$thousands"
    recovered 'killed behind the last batch of the fill, no checkpoint finished; warm' busy/warm
    recovered 'the same, page cache dropped' busy/cold
    recovered 'killed 20 batches behind a round of checkpoints; warm' checkpointed/warm
    recovered 'the same, page cache dropped' checkpointed/cold
    recovered 'the same, warm, checkpoint folder removed: everything replayed' checkpointed/replay
    printf '\nMemory after the fill %s MiB (highest %s). On disk %s bytes a transfer; %s of the payload, which is %s bytes.\n' \
        "$(median rss)" "$(median hwm)" "$(quotient "$bytes" "$entries" %.0f)" \
        "$(quotient "$bytes" "$payload_bytes")" "$(quotient "$payload_bytes" "$entries" %.0f)"
}
recovered() { printf '| %s | %s | %s | %s |\n' "$1" "$(cell "$2")" "$(cell "$2/replay")" "$(median "$2/rss")"; }
