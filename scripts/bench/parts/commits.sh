# The journal alone, by group size, beside a plain file.
# shellcheck shell=bash disable=SC2034,SC2154 # names of scripts/bench-ratios and its other files

part_commits() {
    local count way ns
    cargo bench --quiet --bench ledger -- --warm-up-time 1 --measurement-time 3 --noplot commit >"$work/commits.log" 2>&1 || {
        tail -20 "$work/commits.log" >&2
        exit 1
    }
    printf '### Commits by group size\n\n| group | journal, commits/s | plain file + fdatasync, commits/s | ratio | journal, transfers/s |\n| --- | --- | --- | --- | --- |\n'
    for count in 1 64 512 4096; do
        for way in sled append_fdatasync; do
            ns=$(sed 's/.*"median":{[^}]*},"point_estimate":\([0-9.]*\).*/\1/' \
                "$target/criterion/commit/${way}_group=$count/new/estimates.json")
            figure "commit/$way/$count" "$(awk -v ns="$ns" 'BEGIN { printf "%.1f", 1e9 / ns }')"
        done
        printf '| %s | %s | %s | **%s** | %s |\n' "$count" "$(plain "commit/sled/$count")" \
            "$(plain "commit/append_fdatasync/$count")" \
            "$(ratio "commit/sled/$count" "commit/append_fdatasync/$count")" \
            "$(plain "commit/sled/$count" "$(quotient 1 "$count" %.9f)")"
    done
}
