#!/usr/bin/env bash
# The tier that compares phid with software we did not write: the OpenAI SDK, Hugging Face
# tokenizers and transformers, llama.cpp, ONNX Runtime GenAI, OpenVINO, MLX, GPTQ. All of it comes from
# PyPI into a virtual environment that is kept between runs (PHID_PEERS_DIR, default build/peers).
set -euo pipefail
cd "$(dirname "$0")/../.."

dir=${PHID_PEERS_DIR:-$PWD/build/peers}
export PHID_BIN=${PHID_BIN:-$PWD/build/release/server/phid}
export PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1

# What the environment is made of: a change of either makes it anew.
wanted=tests/peers/requirements.txt
recipe() { cat $wanted tests/peers/tile_config.h; }
if ! recipe | cmp -s - "$dir/installed.txt"; then
    rm -rf "$dir"
    /usr/bin/python3 -m venv "$dir"
    # llama-cpp-python comes as source: only the library is wanted, for this CPU.
    CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) \
        CXXFLAGS="-include $PWD/tests/peers/tile_config.h" \
        CMAKE_ARGS='-DLLAVA_BUILD=OFF -DGGML_OPENMP=OFF -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF
            -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF' \
        "$dir/bin/pip" install -q -r $wanted
    recipe >"$dir/installed.txt"
fi
# A file goes to one process whole: its tests share models, and some end with a table of all of them.
"$dir/bin/python" -m pytest -q -p no:cacheprovider -n 2 --dist loadfile tests/peers \
    tests/models/test_pytorch.py
