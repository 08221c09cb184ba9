#!/bin/bash
# umoci removes files that nobody removed, when a directory became a symbolic link.
#
# One would guess: `umoci repack` makes a layer of what was changed in an unpacked image, and `umoci
# unpack` of the result gives the tree that was there.
# What happens: of a directory `d` that was replaced by a symbolic link to `etc`, the layer has the
# link and behind it whiteouts of what had been in the directory, d/.wh.NAME. Unpacking follows the
# link and removes etc/NAME. Podman refuses such a layer: it has no directory for the whiteout.
#
# Takes root, apt-get and dpkg.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
cd "$work"

apt-get -qq -o APT::Sandbox::User=root download umoci=0.4.7+ds-3+b7
dpkg -x umoci_*.deb package
PATH=$work/package/usr/bin:$PATH
umoci init --layout image
umoci new --image image:t
umoci unpack --image image:t before
mkdir before/rootfs/{d,etc}
echo ours >before/rootfs/etc/passwd
echo theirs >before/rootfs/d/passwd
umoci repack --refresh-bundle --image image:t before
rm -r before/rootfs/d
ln -s etc before/rootfs/d
umoci repack --refresh-bundle --image image:t before
umoci unpack --image image:t after

echo "$(umoci --version): before, etc holds $(ls -A before/rootfs/etc); after, it holds" \
    "$(ls -A after/rootfs/etc | grep . || echo nothing)"
# Seen: umoci version 0.4.7+ds-3+b7: before, etc holds passwd; after, it holds nothing
[[ -e before/rootfs/etc/passwd && ! -e after/rootfs/etc/passwd ]]
