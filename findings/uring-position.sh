#!/bin/bash
# io_uring does not move the position of a file whose FUSE server asked for direct I/O.
#
# One would guess: a read or write by io_uring with offset -1 goes on at the current position of the
# file and moves it, as read(2) and write(2) do (io_uring_enter(2)), on every file that can be sought.
# What happens: if the server answered the open with FOPEN_DIRECT_IO, the position stays where it is.
# Three writes go to the same place, and all succeed; a loop that reads to the end never ends. In
# fuse_direct_IO() the position is a local variable, and io_uring's requests are never synchronous.
# With the page cache (no FOPEN_DIRECT_IO) it is right. Without FUSE_ASYNC_DIO it is worse: io_uring
# repeats a read that came back short, at the place where it began, so that a read at a given offset
# returns the end of the file twice.
# Why it matters: programs lose data without any error, among them Node.js with UV_USE_IO_URING=1.
#
# Takes root, gcc, /dev/fuse, apt-get and dpkg.
set -euo pipefail

work=$(mktemp -d)
server=
finish() {
    mountpoint -q "$work/mnt" && umount "$work/mnt"
    [[ -z $server ]] || wait "$server" || true
    rm -rf --one-file-system "$work"
}
trap finish EXIT
cd "$work"
chmod 755 "$work"
apt-get -qq -o APT::Sandbox::User=root download libfuse3-3=3.14.0-4 libfuse3-dev=3.14.0-4 \
    liburing2=2.3-3 liburing-dev=2.3-3
for package in *.deb; do dpkg -x "$package" root; done
libraries=$(dirname "$(find root -name 'libfuse3.so.3')")
# The runtime library is in /lib, what links to it in /usr/lib.
flags=(-O1 -I root/usr/include -I root/usr/include/fuse3 -L "$libraries"
    -L "$(dirname "$(find root -name liburing.so)")")
export LD_LIBRARY_PATH=$work/$libraries:$work/$(dirname "$(find root -name 'liburing.so.2')")

cat >server.c <<'EOF'
#define FUSE_USE_VERSION 35
#include <fuse.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
static char content[65536];
static off_t length;
static int wants(const char *word) { return strstr(getenv("HOW"), word) != NULL; }
static void *start(struct fuse_conn_info *conn, struct fuse_config *config) {
    if (wants("synchronous")) conn->want &= ~FUSE_CAP_ASYNC_DIO;
    return NULL;
}
static int status(const char *path, struct stat *st, struct fuse_file_info *fi) {
    memset(st, 0, sizeof *st);
    st->st_mode = path[1] ? S_IFREG | 0644 : S_IFDIR | 0755;
    st->st_nlink = 1;
    st->st_size = path[1] ? length : 0;
    return path[1] && strcmp(path, "/file") ? -ENOENT : 0;
}
static int opening(const char *path, struct fuse_file_info *fi) {
    fi->direct_io = wants("direct");
    return 0;
}
static int cut(const char *path, off_t size, struct fuse_file_info *fi) { length = size; return 0; }
static int reading(const char *path, char *to, size_t size, off_t at, struct fuse_file_info *fi) {
    if (at >= length) return 0;
    if (size > (size_t)(length - at)) size = length - at;
    memcpy(to, content + at, size);
    return size;
}
static int writing(const char *path, const char *of, size_t size, off_t at, struct fuse_file_info *fi) {
    memcpy(content + at, of, size);
    if (at + (off_t)size > length) length = at + size;
    return size;
}
int main(int count, char **words) {
    struct fuse_operations operations = { .init = start, .getattr = status, .open = opening,
        .truncate = cut, .read = reading, .write = writing };
    return fuse_main(count, words, &operations, NULL);
}
EOF
cat >client.c <<'EOF'
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
static struct io_uring ring;
static int done(void) {
    struct io_uring_cqe *cqe;
    io_uring_submit(&ring);
    io_uring_wait_cqe(&ring, &cqe);
    int result = cqe->res;
    io_uring_cqe_seen(&ring, cqe);
    return result;
}
int main(int count, char **words) {
    char buffer[64];
    io_uring_queue_init(4, &ring, 0);
    int fd = open(words[1], O_RDWR | O_TRUNC);
    for (int i = 0; i < 3; i++) {
        sprintf(buffer, "line%d", i);
        io_uring_prep_write(io_uring_get_sqe(&ring), fd, buffer, 5, -1);
        if (done() != 5) return 1;
    }
    int size = pread(fd, buffer, 64, 0);
    printf("3 writes of 5 bytes at -1 make %d bytes, ", size);
    ftruncate(fd, 0);
    pwrite(fd, "0123456789", 10, 0);
    io_uring_prep_read(io_uring_get_sqe(&ring), fd, buffer, 25, 0);
    size = done();
    printf("a read of 25 at 0 gets %d of 10\n", size);
    return 0;
}
EOF
gcc "${flags[@]}" -o server server.c -l:libfuse3.so.3 -D_FILE_OFFSET_BITS=64
gcc "${flags[@]}" -o client client.c -l:liburing.so.2

mkdir mnt
found=
for how in cached direct direct-synchronous; do
    HOW=$how ./server -f mnt &
    server=$!
    until mountpoint -q mnt; do kill -0 "$server"; sleep 0.01; done
    found+="$how: $(./client mnt/file)"$'\n'
    umount mnt
    wait "$server"
    server=
done

expected="cached: 3 writes of 5 bytes at -1 make 15 bytes, a read of 25 at 0 gets 10 of 10
direct: 3 writes of 5 bytes at -1 make 5 bytes, a read of 25 at 0 gets 10 of 10
direct-synchronous: 3 writes of 5 bytes at -1 make 5 bytes, a read of 25 at 0 gets 25 of 10
"
# Seen on 2026-11-30 with Linux 6.18.44, libfuse 3.14.0 and liburing 2.3: as above.
echo "Linux $(uname -r), libfuse 3.14.0, liburing 2.3"
printf %s "$found"
[[ $found == "$expected" ]] || { echo "this has changed" >&2; exit 1; }
