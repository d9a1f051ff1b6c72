#!/bin/bash
# The arm64 build under qemu-user: unit tests, which kernel set each processor gets, and that it
# says what the build for this machine says.
#   tests/arm/run.sh PHID        PHID: this machine's own
set -euo pipefail
cd "$(dirname "$0")/../.."
native=$1
jobs=$(nproc)
build=build/arm64
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

emulated() { qemu-aarch64 -L build/arm64-root/root "$@"; }
fail() {
    echo "arm: $*" >&2
    exit 1
}

# On a processor that has everything, all but what measures the machine, which emulation has no part
# in, and what runs whole models so often that it takes minutes: that models come out right is shown
# by the answers below.
QEMU_CPU=max ctest --preset arm64 -j "$jobs" \
    -E '(kernels.ceiling|kernels.machine|model.golden|model.attention|facade|runtime.golden|engine.quant|tokenizer.gguf)'

"$native" quantize models/phi-sample --precision int4 --out "$work/int4.gguf" \
    >"$work/quantize.log" 2>&1 || fail "$(cat "$work/quantize.log")"
ask() { "$@" generate "$work/int4.gguf" 'the cat' --raw --temperature 0 --max-tokens 40 --threads 2; }
ask "$native" >"$work/native.said"

# served CPU SET: the server of that processor takes that set by itself.
served() {
    local log=$work/$1.log
    # Not through the function: the process to be stopped has to be the emulator.
    QEMU_CPU=$1 qemu-aarch64 -L build/arm64-root/root $build/server/phid serve \
        --listen 127.0.0.1:0 --data-dir "$work/$1.data" --threads 1 2>"$log" &
    local pid=$!
    for _ in {1..300}; do
        ! grep -q 'isa=' "$log" || break
        sleep 0.1
    done
    kill "$pid" || fail "$1: the server is gone: $(cat "$log")"
    wait "$pid" || fail "$1: the server did not end well: $(cat "$log")"
    grep -q "isa=$2 " "$log" || fail "$1 has to take $2: $(cat "$log")"
}

# Processors without the matrix multiplication, and without the dot product.
while read -r cpu set; do
    QEMU_CPU=$cpu ask emulated $build/server/phid >"$work/$cpu.said"
    cmp "$work/native.said" "$work/$cpu.said" || fail "$cpu says something else than this machine"
    served "$cpu" "$set"
    [ "$cpu" = max ] || QEMU_CPU=$cpu ctest --preset arm64 -j "$jobs" -R 'kernels\.(products|vectors)'
done <<'SETS'
max neon-i8mm
neoverse-n1 neon-dotprod
cortex-a72 portable
SETS

# A set that the processor lacks is refused by name.
! PHID_ISA=neon-i8mm QEMU_CPU=neoverse-n1 emulated $build/server/phid serve \
    --listen 127.0.0.1:0 --data-dir "$work/refused" 2>"$work/refused.log" ||
    fail 'neon-i8mm ran without the matrix multiplication'
grep -q 'lacks.*i8mm' "$work/refused.log" || fail "no reason given: $(cat "$work/refused.log")"
