#!/usr/bin/env bash
# Installs, builds and runs the tests.
#   tests/run.sh              everything that needs nothing but Debian's packages
#   tests/run.sh peers        what needs PyPI: SDKs and other engines to compare with
#   tests/run.sh STAGE...     single stages: lint unit http sanitize clang fuzz arm deploy container
set -euo pipefail
cd "$(dirname "$0")/.."

jobs=$(nproc)
export PHID_BIN=$PWD/build/release/server/phid
export PYTHONDONTWRITEBYTECODE=1
python=/usr/bin/python3
timings=()

# stage NAME: runs stage_NAME and notes its time.
stage() {
    local began=$SECONDS
    printf '\n== %s\n' "$1"
    "stage_$1"
    timings+=("$(printf '%-10s %4d s' "$1" $((SECONDS - began)))")
}

build() {
    cmake --preset "$1" >/dev/null
    cmake --build --preset "$1" -j "$jobs" -- --quiet
}

# Tests go to as many processes as there are CPUs, those of a file together.
pytest() { "$python" -m pytest -q -p no:cacheprovider -n "$jobs" --dist loadfile "$@"; }

c_sources() {
    git ls-files --cached --others --exclude-standard "$@"
}

stage_lint() {
    c_sources '*.c' '*.h' | xargs clang-format --dry-run -Werror
    tools/check_layers.py
    tools/check_headers.sh
    # clang's own compile commands: gcc's warning flags would only confuse it.
    cmake --preset clang >/dev/null
    c_sources 'base/*.c' 'config/*.c' 'engine/*.c' 'server/*.c' | grep -v /neon/ |
        xargs -P "$jobs" -n 1 clang-tidy -p build/clang --quiet 2>/dev/null
}

stage_unit() {
    build release
    ctest --preset release -j "$jobs"
    [ ! -d tests/models ] || pytest tests/models
}

stage_http() {
    build release
    pytest tests/http
}

stage_sanitize() {
    build asan
    ctest --preset asan -j "$jobs"
    PHID_BIN=$PWD/build/asan/server/phid pytest tests/http tests/models/test_damaged_files.py \
        tests/models/test_command_line.py
    build tsan
    # Only what has threads is worth the wait under the thread sanitizer.
    ctest --preset tsan -j "$jobs" -R '(runtime|kernels|server|facade)' -E products
    PHID_BIN=$PWD/build/tsan/server/phid pytest tests/http/test_chat.py \
        tests/http/test_completions.py
}

stage_clang() {
    build clang
    ctest --preset clang -j "$jobs"
}

stage_fuzz() { tests/fuzz/run.sh "${PHID_FUZZ_SECONDS:-25}"; }

stage_deploy() {
    tests/deploy/run.sh
}

stage_arm() {
    deploy/install-packages.sh arm
    tests/arm/root.sh build/arm64-root
    build release
    build arm64
    # What clang says of the files that only this build has.
    c_sources 'engine/kernels/neon/*.c' | xargs -P "$jobs" -I{} clang-tidy --quiet {} -- \
        --target=aarch64-linux-gnu --sysroot=build/arm64-root/root -march=armv8.2-a+dotprod+i8mm \
        -std=c11 -D_GNU_SOURCE -I. -Wall -Wextra -Wpedantic -Werror -Wno-unused-function 2>/dev/null
    tests/arm/run.sh "$PHID_BIN"
}

stage_container() {
    deploy/install-packages.sh container
    tests/container/run.sh
}

stage_peers() {
    deploy/install-packages.sh peers
    build release
    tests/peers/run.sh
}

deploy/install-packages.sh test
case "${1:-}" in
'') set -- lint unit http clang sanitize fuzz arm deploy container ;;
esac
for name; do
    [ "$(type -t "stage_$name")" = function ] || {
        echo "there is no stage '$name'" >&2
        exit 2
    }
    stage "$name"
done
printf '\n'
printf '%s\n' "${timings[@]}"
