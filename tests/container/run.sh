#!/usr/bin/env bash
# Builds the image from the Dockerfile with buildah (no Docker engine, no registry: the base image
# is made by debootstrap), runs it with podman as a deployment would (read-only root, no
# capabilities, no new privileges), and does the main job in it over HTTP.
set -euo pipefail
cd "$(dirname "$0")/../.."

[ "$(id -u)" = 0 ] || {
    echo 'container: needs root to run containers here; skipped'
    exit 0
}

work=${PHID_CONTAINER_DIR:-/var/tmp/phid-container}
port=${PHID_CONTAINER_PORT:-18080}
name=phid-test-$$
mkdir -p "$work"
export CONTAINERS_CONF=$work/containers.conf CONTAINERS_STORAGE_CONF=$work/storage.conf
cat >"$CONTAINERS_CONF" <<END
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]
netns = "host"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
END
printf '[storage]\ndriver = "overlay"\ngraphroot = "%s/store"\nrunroot = "%s/run"\n' \
    "$work" "$work" >"$CONTAINERS_STORAGE_CONF"

base=localhost/debian:bookworm-slim
make_base() {
    local root=$work/rootfs sources=/etc/apt/sources.list.d/debian.sources mirror
    mirror=$(awk '/^URIs:/ {print $2; exit}' $sources)
    rm -rf "$root"
    debootstrap --variant=minbase bookworm "$root" "$mirror" >"$work/debootstrap.log" 2>&1 || {
        tail -n 20 "$work/debootstrap.log"
        return 1
    }
    rm -f "$root/etc/apt/sources.list" "$root/etc/resolv.conf" "$root/etc/hostname"
    cp $sources "$root/etc/apt/sources.list.d/"
    cp /etc/apt/apt.conf.d/* "$root/etc/apt/apt.conf.d/" 2>/dev/null || true
    cat >"$root/etc/apt/apt.conf.d/99test" <<'END'
Acquire::Check-Valid-Until "false";
Acquire::Check-Date "false";
Acquire::Languages "none";
END
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
    tar -C "$root" -c . | podman import --change 'CMD ["bash"]' - $base >/dev/null
    rm -rf "$root"
}

cleanup() {
    podman rm -f -t 5 "$name" >/dev/null 2>&1 || true
    podman volume rm "$name" >/dev/null 2>&1 || true
}
trap cleanup EXIT

podman image exists $base || make_base
buildah build --isolation chroot --network host --format docker --pull-never \
    -t localhost/phid:test . >"$work/build.log" 2>&1 || {
    tail -n 40 "$work/build.log"
    exit 1
}
echo "image: $(podman image inspect localhost/phid:test --format '{{.Size}}' |
    awk '{printf "%.0f MB", $1 / 1e6}')"

podman run -d --name "$name" --read-only --tmpfs /tmp:size=16m --cap-drop=ALL \
    --security-opt no-new-privileges --memory 4g --pids-limit 256 \
    -v "$name":/var/lib/phid -e PHID_LISTEN="127.0.0.1:$port" localhost/phid:test >/dev/null

PHID_URL=http://127.0.0.1:$port python3 tests/container/main_job.py || {
    podman logs "$name" 2>&1 | tail -n 30
    exit 1
}
podman healthcheck run "$name"
echo 'healthcheck: healthy'
user=$(podman exec "$name" id -u)
[ "$user" != 0 ] || {
    echo 'the container runs as root'
    exit 1
}
began=$(date +%s%N)
podman stop -t 20 "$name" >/dev/null
echo "stopped in $((($(date +%s%N) - began) / 1000000)) ms with exit code $(podman inspect "$name" \
    --format '{{.State.ExitCode}}')"
[ "$(podman inspect "$name" --format '{{.State.ExitCode}}')" = 0 ]
