#!/bin/bash
# Podman does not read OCI hooks from /etc/containers/oci/hooks.d, though its manual says so.
#
# One would guess: podman(1) of 4.3 says of --hooks-dir that root's default is
# /usr/share/containers/oci/hooks.d and /etc/containers/oci/hooks.d, the latter with the higher
# precedence, so an administrator puts a hook into /etc, where configuration belongs.
# What happens: only /usr/share/containers/oci/hooks.d is read. The hook in /etc is not run, no
# message says so, and the container starts. A hook that sets something up (a device, a mount, a
# label) is missing in silence.
#
# Takes root, apt-get and dpkg; conmon and runc come from the same packages' repository.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
cd "$work"

chmod 755 "$work"
fetch=(apt-get -qq -o APT::Sandbox::User=root download)
"${fetch[@]}" podman=4.3.1+ds1-8+deb12u1+b3 busybox-static=1:1.35.0-4+deb12u1+b1
for tool in conmon runc; do
    command -v "$tool" >/dev/null || "${fetch[@]}" "$tool"
done
for package in *.deb; do dpkg -x "$package" root; done
podman=$work/root/usr/bin/podman
version=$("$podman" --version)
manual=$(zcat root/usr/share/man/man1/podman.1.gz | tr '\n' ' ')
grep -q 'usr/share/containers/oci/hooks.d.*etc/containers/oci/hooks.d' <<<"${manual//\\/}" &&
    says="the manual names both directories" || says="the manual no longer names both"

mkdir -p rootfs/bin ran
cp root/bin/busybox rootfs/bin/sh
cat >containers.conf <<EOF
[containers]
netns = "none"
default_ulimits = ["nofile=1000:1000", "nproc=1000:1000"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
tmp_dir = "$work/tmp"
EOF
printf '[storage]\ndriver = "vfs"\ngraphroot = "%s/graph"\nrunroot = "%s/run"\n' "$work" "$work" \
    >storage.conf

cat >inside <<'EOF'
set -euo pipefail
work=$1 podman=$2
# Both directories belong to this mount namespace alone.
for place in /etc/containers /usr/share/containers; do
    mkdir -p "$place"
    mount -t tmpfs none "$place"
    mkdir -p "$place/oci/hooks.d"
    name=$(tr / - <<<"${place#/}")
    cat >"$place/oci/hooks.d/touch.json" <<JSON
{"version": "1.0.0", "hook": {"path": "/bin/touch", "args": ["touch", "$work/ran/$name"]},
 "when": {"always": true}, "stages": ["prestart"]}
JSON
done
echo '{"default": [{"type": "insecureAcceptAnything"}]}' >/etc/containers/policy.json
export PATH=$work/root/usr/bin:$work/root/usr/sbin:$PATH
export CONTAINERS_CONF=$work/containers.conf CONTAINERS_STORAGE_CONF=$work/storage.conf
"$podman" --runtime runc run --rm --rootfs "$work/rootfs" sh -c 'echo container ran' 2>&1
EOF
said=$(unshare --mount --propagation private bash inside "$work" "$podman")

echo "$version: $says; $said; hooks that ran: $(ls ran | xargs)"
# Seen: podman version 4.3.1: the manual names both directories; container ran; hooks that ran:
# usr-share-containers
[[ $said == *"container ran"* && $(ls ran) == usr-share-containers ]]
