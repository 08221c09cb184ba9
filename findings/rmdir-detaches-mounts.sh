#!/bin/bash
# rmdir(2) of a mount point succeeds, and takes the mount away from all other mount namespaces.
#
# One would guess: EBUSY, as rmdir(2) has it for a directory that is "used as a mount point". Or, that
# a mount in another namespace, private and with open files, is nobody's business but that namespace's.
# What happens: EBUSY is for a mount in the caller's own namespace only. Otherwise the directory goes,
# and with it, lazily, every mount on it in every namespace. A process there that has a file open goes
# on with it; the path is gone for all.
# Why it matters: a service that unmounts a directory and removes it ends the mount in containers,
# monitors and units with PrivateMounts= that still held a copy. The same is a way to end such copies.
#
# Takes root and util-linux.
set -euo pipefail

work=$(mktemp -d)
trap 'exec 3>&- || true; wait; umount -q "$work/place" 2>/dev/null || true; rm -rf --one-file-system "$work"' EXIT
mkdir "$work/place"
mount -t tmpfs none "$work/place"
echo content >"$work/place/file"

mkfifo "$work/go"
unshare --mount --propagation private bash -c '
    exec 4<"$1/place/file"
    read -r _ <"$1/go"
    findmnt -n "$1/place" >/dev/null && echo "the other namespace: mounted" || echo "the other namespace: gone"
    ls "$1/place" >/dev/null 2>&1 && echo "path: there" || echo "path: gone"
    echo "open file: $(cat <&4)"
' _ "$work" >"$work/said" &
exec 3>"$work/go"   # opens when the other one reads, so it has made its copy of the mounts

here=$(rmdir "$work/place" 2>&1 && echo removed || true)
umount "$work/place"
there=$(rmdir "$work/place" 2>&1 && echo removed || true)
echo now >&3
exec 3>&-
wait $!

echo "Linux $(uname -r)"
echo "mounted in this namespace: ${here##*: }"
echo "mounted in another one only: $there"
cat "$work/said"
# Seen on Linux 6.18.44:
#   mounted in this namespace: Device or resource busy
#   mounted in another one only: removed
#   the other namespace: gone
#   path: gone
#   open file: content
[[ $here == *busy && $there == removed ]]
[[ $(<"$work/said") == $'the other namespace: gone\npath: gone\nopen file: content' ]]
