#!/usr/bin/env bash
# Compares phid's speed with that of other engines on this machine: installs them from PyPI, makes
# their models, measures, and writes docs/performance.md's tables and plot from the results.
#   tests/bench/peers/run.sh [--rounds N] [--only ENGINE,...] [--precision P,...] [--drop-models]
# Everything lies below PHID_BENCH_DIR (default build/bench-peers); about 45 GB for all precisions,
# about 30 with --drop-models. What is there is not made or measured again. compare.py --help lists
# the options.
set -euo pipefail
cd "$(dirname "$0")/../../.."

export PHID_BENCH_DIR=${PHID_BENCH_DIR:-$PWD/build/bench-peers}
export PHID_BIN=${PHID_BIN:-$PWD/build/release/server/phid}
export PYTHONDONTWRITEBYTECODE=1
here=tests/bench/peers
mkdir -p "$PHID_BENCH_DIR"

# venv NAME: an environment with what requirements/NAME.txt names.
venv() {
    local dir=$PHID_BENCH_DIR/venv-$1 wanted=$here/requirements/$1.txt
    recipe() { cat "$wanted" tests/peers/tile_config.h; }
    if recipe | cmp -s - "$dir/installed.txt"; then return; fi
    echo "installing $wanted" >&2
    rm -rf "$dir"
    /usr/bin/python3 -m venv "$dir"
    # llama.cpp comes as source: built for this CPU with all that it has, programs left out.
    CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) \
        CXXFLAGS="-include $PWD/tests/peers/tile_config.h" \
        CMAKE_ARGS='-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF
            -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF' \
        "$dir/bin/pip" install -q -r "$wanted"
    recipe >"$dir/installed.txt"
}

only=
previous=
for argument; do
    case $argument in
    --only=*) only=${argument#--only=} ;;
    *) [ "$previous" != --only ] || only=$argument ;;
    esac
    previous=$argument
done

deploy/install-packages.sh bench
cmake --preset release >/dev/null
cmake --build --preset release -j "$(nproc)" -- --quiet
wants() { [ -z "$only" ] || [[ ",$only," == *",$1,"* ]]; }
venv tools
if wants llama.cpp; then venv llama_cpp; fi
if wants mlx; then venv mlx; fi
if wants onnxruntime; then venv onnxruntime; fi
if wants openvino; then venv openvino; fi
if wants onnxruntime || wants openvino; then venv convert; fi

"$PHID_BENCH_DIR/venv-tools/bin/python" $here/compare.py "$@"
"$PHID_BENCH_DIR/venv-tools/bin/python" $here/report.py "$PHID_BENCH_DIR/results.json"
