# Commits while checkpoints are written and volumes change: the longest against the median, and what is on disk then.
# shellcheck shell=bash disable=SC2034,SC2154 # names of scripts/bench-ratios and its other files

pause() { # WHAT VOLUME_BYTES FLAG…
    local what=$1 volume_bytes=$2 line foreign cores median_ms longest_ms
    shift 2
    start_echopay "$work/data" --volume-bytes-max "$volume_bytes" || {
        failed "$what" 'the server did not start'
        return 0
    }
    if ! measured "$what" echopay "$address" --warmup 0.5 --duration "$pause_seconds" "$@"; then
        stop echopay
        rm -rf "$work/data"
        return 0
    fi
    median_ms=$(quantile_ms echopay_commit_duration_seconds 0.5)
    longest_ms=$(metric echopay_commit_longest_seconds | awk '{ printf "%.4g", $1 * 1000 }')
    echo "$what: median $median_ms ms, longest $longest_ms ms, foreign $foreign" >&2
    printf '| %s | %s | %s | %s | %s | %s | **%s** | %s / %s / %s | %s | %s | %s |\n' "$what" \
        "$(quotient "$(field transfers_per_second "$line")" 1 %.0f)" \
        "$(metric echopay_journal_rotation_duration_seconds_count)" "$(metric echopay_checkpoint_rounds_total)" \
        "$median_ms" "$longest_ms" "$(quotient "$longest_ms" "$median_ms" %.0f)" \
        "$(quotient "$(field writes.p99_us "$line")" 1000 %.1f)" "$(quotient "$(field writes.p999_us "$line")" 1000 %.1f)" \
        "$(quotient "$(field writes.max_us "$line")" 1000 %.1f)" \
        "$(quotient "$(disk_bytes "$work/data")" "$(metric echopay_commit_payload_bytes_total)")" \
        "$(memory_mib VmRSS)" "$foreign"
    stop echopay
    rm -rf "$work/data"
}

part_pauses() {
    printf '### The longest commit under full load, checkpoints and rotations included\n\n'
    printf '| load | transfers/s | rotations | checkpoint rounds | commit: median, ms | longest, ms | longest / median | request p99 / p99.9 / max, ms | disk / payload | memory, MiB | foreign cores |\n'
    printf '| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n'
    pause 'batches of 1,000, 4 connections, volumes of 256 MiB' $((256 << 20)) --connections 4 --batch 1000
    pause 'single, 64 connections, volumes of 16 MiB' $((16 << 20)) --connections 64
    pause 'single, 256 connections, volumes of 16 MiB' $((16 << 20)) --connections 256
}
