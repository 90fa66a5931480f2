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
        start_echopay "$work/copy" --log-format json --log-level info || {
            failed "$name, $how" 'the server did not start'
            rm -rf "$work/copy"
            return 0
        }
        figure "$name/$how" "$took_ms"
        figure "$name/$how/rss" "$(memory_mib VmRSS)"
        figure "$name/$how/replay" "$(replay_rate)"
        found=$(durable)
        stop echopay
        rm -rf "$work/copy"
        if [[ $found != "$expected" ]]; then
            # Not a point that is lost: a promise that is broken.
            echo "$name, $how: $expected was acknowledged, $found came back" >&2
            return 1
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

# filled THOUSANDS: a store of so many transfers whose server was killed behind the last; sets `expected`.
filled() {
    local size=$1 entries payload_bytes
    start_echopay "$killed"
    load_batches "$size"
    expected=$(durable)
    figure "$size/rss" "$(memory_mib VmRSS)"
    figure "$size/hwm" "$(memory_mib VmHWM)"
    entries=$(metric echopay_commit_entries_sum)
    payload_bytes=$(metric echopay_commit_payload_bytes_total)
    stop echopay
    figure "$size/disk" "$(quotient "$(disk_bytes "$killed")" "$entries" %.0f)"
    figure "$size/disk_of_payload" "$(quotient "$(disk_bytes "$killed")" "$payload_bytes")"
    figure "$size/payload" "$(quotient "$payload_bytes" "$entries" %.0f)"
    echo "$size,000 transfers: memory $(plain "$size/rss") MiB, $(plain "$size/disk") bytes of disk each" >&2
}

# checkpointed: on the same store a round of checkpoints ends, a little is added, and it is killed again.
checkpointed() {
    local rounds_before deadline
    start_echopay "$killed"
    load_batches 1
    rounds_before=$(metric echopay_checkpoint_rounds_total)
    deadline=$((SECONDS + 180))
    until (($(metric echopay_checkpoint_rounds_total) >= rounds_before + 2)); do
        if ((SECONDS > deadline)); then
            stop echopay
            return 1
        fi
        load_batches 1
        sleep 1
    done
    load_batches 20
    expected=$(durable)
    stop echopay
}

part_recovery() {
    local killed=$work/killed expected size turns how
    for size in "${thousands[@]}"; do
        # Each start is on a copy of the store: of a large one fewer.
        turns=$((size > 2000 ? 2 : 5))
        filled "$size"
        for how in warm cold; do recover "$size/busy" "$killed" "$turns" "$how" "$expected"; done
        if checkpointed; then
            for how in warm cold replay; do recover "$size/checkpointed" "$killed" "$turns" "$how" "$expected"; done
        else
            failed "$size,000 transfers, checkpointed" 'no round of checkpoints ended in three minutes'
        fi
        rm -rf "$killed"
    done
    printf '### After kill -9: until it listens again\n\n| transfers | killed | ms | replay, entries/s | memory then, MiB |\n| --- | --- | --- | --- | --- |\n'
    for size in "${thousands[@]}"; do
        recovered "$size" 'behind the last batch of the fill, whatever checkpoints there were; warm' busy/warm
        recovered "$size" 'the same, page cache dropped' busy/cold
        recovered "$size" '20 batches behind a round of checkpoints; warm' checkpointed/warm
        recovered "$size" 'the same, page cache dropped' checkpointed/cold
        recovered "$size" 'the same, warm, checkpoint folder removed: everything replayed' checkpointed/replay
    done
    printf '\n| transfers, in batches | memory behind the last, MiB | highest | on disk, bytes a transfer | of the payload | payload, bytes a transfer |\n| --- | --- | --- | --- | --- | --- |\n'
    for size in "${thousands[@]}"; do
        printf '| %s,000 | %s | **%s** | %s | **%s** | %s |\n' "$size" "$(plain "$size/rss")" "$(plain "$size/hwm")" \
            "$(plain "$size/disk")" "$(plain "$size/disk_of_payload" 1 %.2f)" "$(plain "$size/payload")"
    done
}
recovered() { # THOUSANDS WHAT NAME
    printf '| %s,000 | %s | %s | %s | %s |\n' "$1" "$2" "$(cell "$1/$3")" "$(cell "$1/$3/replay")" "$(plain "$1/$3/rss")"
}
