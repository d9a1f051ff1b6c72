#!/usr/bin/env bash
# Builds every fuzz target and runs each for the given number of seconds (default 25) from its seed
# corpus, two at a time. A finding is written beside the log and fails the run.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-25}

cmake --preset fuzz >/dev/null
cmake --build --preset fuzz -j "$(nproc)" -- --quiet
out=build/fuzz/findings
mkdir -p "$out"

run_one() {
    local target=$1 seconds=$2 out=$3 name work
    name=$(basename "$target")
    name=${name#fuzz_}
    work=$out/$name
    rm -rf "$work"
    mkdir -p "$work/corpus"
    if ! (cd "$work" && "$OLDPWD/$target" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 \
        -print_final_stats=1 corpus "$OLDPWD/tests/fuzz/corpus/$name") >"$work/log" 2>&1; then
        tail -n 40 "$work/log"
        echo "fuzz $name: FAILED (see $work)"
        return 255
    fi
    printf 'fuzz %-18s %s runs\n' "$name" \
        "$(sed -n 's/^stat::number_of_executed_units: *//p' "$work/log")"
}
export -f run_one

find build/fuzz -maxdepth 3 -name 'fuzz_*' -type f -perm -u+x | sort |
    xargs -P "$(nproc)" -I{} bash -c 'run_one "$@"' _ {} "$seconds" "$out"
