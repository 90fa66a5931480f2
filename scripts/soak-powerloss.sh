#!/usr/bin/env bash
# Cuts the power of an echopay of its own again and again, at random moments and at each kind of step, on a file system
# that forgets what was not synced, and compares after each start what is there with what was acknowledged.
# Ends with 1 when something acknowledged is gone, or a store does not open.
#
#   scripts/soak-powerloss.sh [--cuts N] [--seed N] [--go-on]
#
# --cuts N    default 200, some 2 s each
# --seed N    default random; printed, and the same seed aims at the same steps
# --go-on     counts violations instead of ending at the first: for builds that are broken on purpose
#
# Needs root, /dev/fuse and cargo. Leaves neither process nor mount behind.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2
    exit 64
}

cuts=200
seed=''
go_on=0
while (($#)); do
    case $1 in
        --cuts | --seed)
            [[ ${2:-} =~ ^[1-9][0-9]{0,17}$ ]] || usage
            if [[ $1 == --cuts ]]; then cuts=$2; else seed=$2; fi
            shift 2
            ;;
        --go-on)
            go_on=1
            shift
            ;;
        *) usage ;;
    esac
done

ECHOPAY_REQUIRE_FUSE=1 ECHOPAY_POWERLOSS_CUTS=$cuts ECHOPAY_POWERLOSS_SEED=$seed ECHOPAY_POWERLOSS_GO_ON=$go_on \
    exec cargo test --locked --test powerloss -- \
    --exact cuts::nothing_acknowledged_is_lost_in_power_cuts_at_any_step
