#!/bin/sh
# Unpacks Debian's arm64 libraries that phid is built from into a directory of their own, for the
# cross compiler and the emulator: this system's packages and architectures stay as they are.
#   tests/arm/root.sh DIR
set -eu
dir=$(mkdir -p "$1" && cd "$1" && pwd)
packages='libc6-dev libmicrohttpd-dev libjansson-dev libexpat1-dev libopenblas-pthread-dev
    libuv1-dev libsqlite3-dev libpcre2-dev nettle-dev libarchive-dev libcmocka-dev'

# One that is complete says for what it was made.
made=$dir/made-for
[ "$(cat "$made" 2>/dev/null || true)" != "$packages" ] || exit 0
rm -rf "$dir/root" "$dir/apt"
state=$dir/apt
mkdir -p "$dir/root" "$state/lists/partial" "$state/archives/partial"
: >"$state/status"

# This system's sources, asked for another architecture by somebody who has nothing installed.
foreign_apt() {
    apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures::=arm64 \
        -o Dir::State="$state" -o Dir::State::Lists="$state/lists" \
        -o Dir::State::status="$state/status" -o Dir::Cache="$state" \
        -o Dir::Cache::archives="$state/archives" -o APT::Sandbox::User=root \
        -o APT::Update::Post-Invoke= -o DPkg::Post-Invoke= "$@"
}
foreign_apt update
# shellcheck disable=SC2086
foreign_apt install --download-only -y --no-install-recommends $packages
for package in "$state"/archives/*.deb; do
    dpkg-deb -x "$package" "$dir/root"
done
rm -rf "$state"

# What the packages' own scripts would have done: choose the one OpenBLAS there is.
lib=$dir/root/usr/lib/aarch64-linux-gnu
ln -sf openblas-pthread/libopenblas.so.0 "$lib/libopenblas.so.0"
ln -sf openblas-pthread/libopenblas.so "$lib/libopenblas.so"
ln -sf ../openblas-pthread/pkgconfig/openblas.pc "$lib/pkgconfig/openblas.pc"
printf '%s' "$packages" >"$made"
