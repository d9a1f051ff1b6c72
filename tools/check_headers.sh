#!/bin/sh
# Every header of the project compiles alone.
set -eu
cd "$(dirname "$0")/.."
git ls-files --cached --others --exclude-standard 'base/*.h' 'config/*.h' 'engine/*.h' 'server/*.h' |
    xargs -P "$(nproc)" -I{} sh -c '
        case "{}" in
        engine/kernels/a[mv]x*) set -- -mavx512f -mavx512dq -mavx512bf16 -mamx-tile -mamx-bf16 ;;
        esac
        printf "#include \"%s\"\ntypedef int phi_alone;\n" "{}" |
        gcc -std=c11 -D_GNU_SOURCE -DPHID_VERSION=\"0\" -I. -mavx2 -mfma -mf16c "$@" -Wall -Wextra \
            -Werror -fsyntax-only -x c - || { echo "{} does not compile alone"; exit 255; }'
echo 'headers: each compiles alone'
