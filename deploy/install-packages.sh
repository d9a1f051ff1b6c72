#!/bin/sh
# Installs what phid is built from, all of it Debian's packages.
#   install-packages.sh build      to build and run
#   install-packages.sh test       also what the tests need
#   install-packages.sh container  also what builds and runs images without a Docker engine
#   install-packages.sh arm        also what builds for 64-bit Arm and emulates it
#   install-packages.sh peers      also what the software to compare with is built from
#   install-packages.sh bench      to build, and to compare speeds with other engines
set -eu

build='gcc libc6-dev cmake ninja-build pkg-config libmicrohttpd-dev libjansson-dev libexpat1-dev
    libopenblas-dev libuv1-dev libsqlite3-dev libpcre2-dev nettle-dev libarchive-dev
    ca-certificates curl python3'
tests='git clang clang-format clang-tidy libclang-rt-14-dev libcmocka-dev python3-pytest
    python3-pytest-xdist python3-numpy python3-requests python3-jsonschema nginx-light systemd'
container='buildah podman runc debootstrap zstd'
arm='gcc-aarch64-linux-gnu qemu-user'
peers='python3-venv python3-dev g++'
bench='python3-venv g++'

case "${1:-build}" in
build) wanted="$build" ;;
test) wanted="$build $tests" ;;
container) wanted="$build $tests $container" ;;
arm) wanted="$build $tests $arm" ;;
peers) wanted="$build $tests $peers" ;;
bench) wanted="$build $bench" ;;
*)
    echo "usage: install-packages.sh [build|test|container|arm|peers|bench]" >&2
    exit 2
    ;;
esac

missing=
for package in $wanted; do
    status=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
    [ "$status" = 'install ok installed' ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

run=
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || {
        echo "these packages are missing; install them as root:$missing" >&2
        exit 1
    }
    run=sudo
fi
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
$run apt-get update -qq
# Services that a package would start are not wanted here: exit code 101 forbids it.
policy=/usr/sbin/policy-rc.d
made_policy=
if [ ! -e $policy ] && [ "$(id -u)" = 0 ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
    made_policy=1
fi
# shellcheck disable=SC2086
$run apt-get install -y -qq --no-install-recommends $missing >/dev/null || {
    [ -z "$made_policy" ] || rm -f $policy
    echo "apt-get could not install:$missing" >&2
    exit 1
}
[ -z "$made_policy" ] || rm -f $policy
