#!/usr/bin/env bash
# What a deployment stands on: the quickstart, the systemd unit, the example settings, and nginx
# passing a stream through event by event.
set -euo pipefail
cd "$(dirname "$0")/../.."
phid=${PHID_BIN:-$PWD/build/release/server/phid}

echo '-- quickstart'
PHID_QUICKSTART_PORT=${PHID_QUICKSTART_PORT:-18090} deploy/quickstart.sh --check

echo '-- example settings'
diff <("$phid" config) deploy/phid.conf
"$phid" config --check deploy/phid.conf

echo '-- systemd unit'
unit=$(mktemp -d)/phid.service
sed "s#/usr/bin/phid#$phid#" deploy/systemd/phid.service >"$unit"
systemd-analyze verify --recursive-errors=no "$unit"
systemd-analyze security --offline=true --threshold=20 "$unit" | tail -n 1

echo '-- nginx'
/usr/bin/python3 tests/deploy/nginx_stream.py
