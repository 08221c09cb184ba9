/*
 * The measuring program: one binary, no dependencies, run on every peer alike.
 *
 *   ops micro DIR COUNT MEGABYTES    one call after the other, COUNT times each
 *   ops clients DIR CLIENTS SECONDS  CLIENTS processes doing a mix of calls on shared files
 *   ops walk DIR                     stat everything below DIR, print how many
 *   ops await DIR                    say when DIR has become another file system and answers
 *
 * Results go to stdout, one per line: name, unit, value. Any call that fails ends the program with
 * a message and status 1: a row is measured in full or not at all.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096
#define MEGABYTE (1 << 20)

static char *buffer; /* MEGABYTE bytes */

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static void die(const char *what, const char *path)
{
	fprintf(stderr, "ops: %s %s: %s\n", what, path, strerror(errno));
	exit(1);
}

static void row(const char *name, const char *unit, double value)
{
	printf("%s %s %.6f\n", name, unit, value);
	fflush(stdout);
}

static const char *name_of(const char *prefix, int number)
{
	static char names[2][64];
	static int turn;
	char *name = names[turn ^= 1]; /* two, for rename */
	snprintf(name, sizeof names[0], "%s%d", prefix, number);
	return name;
}

static int open_or_die(const char *path, int flags)
{
	int fd = open(path, flags, 0644);
	if (fd < 0)
		die("open", path);
	return fd;
}

/* --- micro: one function per row, called with 0, 1, 2, ... --- */

static int shared_fd; /* f0, for the calls on an open file */

static void create(int i)
{
	if (close(open_or_die(name_of("f", i), O_CREAT | O_EXCL | O_WRONLY)))
		die("close", name_of("f", i));
}

static void stat_path(const char *path)
{
	struct stat st;
	if (stat(path, &st))
		die("stat", path);
}

static void stat_each(int i)
{
	stat_path(name_of("f", i));
}

static void stat_same(int i)
{
	(void)i;
	stat_path("f0");
}

static void stat_missing(int i)
{
	struct stat st;
	if (!stat(name_of("missing", i), &st) || errno != ENOENT)
		die("stat", name_of("missing", i));
}

static void open_close(int i)
{
	close(open_or_die(name_of("f", i), O_RDONLY));
}

static void open_write(int i)
{
	const char *name = name_of("f", i);
	int fd = open_or_die(name, O_WRONLY);
	if (write(fd, buffer, BLOCK) != BLOCK || close(fd))
		die("write", name);
}

static void open_read(int i)
{
	const char *name = name_of("f", i);
	int fd = open_or_die(name, O_RDONLY);
	if (read(fd, buffer, BLOCK) != BLOCK)
		die("read", name);
	close(fd);
}

static void pwrite_block(int i)
{
	(void)i;
	if (pwrite(shared_fd, buffer, BLOCK, 0) != BLOCK)
		die("pwrite", "f0");
}

static void pread_block(int i)
{
	(void)i;
	if (pread(shared_fd, buffer, BLOCK, 0) != BLOCK)
		die("pread", "f0");
}

static void fstat_open(int i)
{
	struct stat st;
	(void)i;
	if (fstat(shared_fd, &st))
		die("fstat", "f0");
}

static void rename_each(int i)
{
	const char *from = name_of("f", i), *to = name_of("g", i);
	if (rename(from, to))
		die("rename", from);
}

static void unlink_each(int i)
{
	if (unlink(name_of("g", i)))
		die("unlink", name_of("g", i));
}

static void mkdir_rmdir(int i)
{
	const char *name = name_of("d", i);
	if (mkdir(name, 0755) || rmdir(name))
		die("mkdir, rmdir", name);
}

static void measure(const char *name, void (*call)(int), int count)
{
	double start = now();
	for (int i = 0; i < count; i++)
		call(i);
	row(name, "us", (now() - start) / count * 1e6);
}

/* Returns how many entries the working directory has. */
static int list(int with_stat)
{
	DIR *directory = opendir(".");
	struct dirent *entry;
	struct stat st;
	int entries = 0;
	if (!directory)
		die("opendir", ".");
	for (errno = 0; (entry = readdir(directory)); entries++)
		if (with_stat && fstatat(dirfd(directory), entry->d_name, &st, AT_SYMLINK_NOFOLLOW))
			die("fstatat", entry->d_name);
	if (errno)
		die("readdir", ".");
	closedir(directory);
	return entries;
}

static void measure_list(const char *name, int with_stat, int expected)
{
	double start = now();
	int entries = list(with_stat);
	row(name, "us", (now() - start) / entries * 1e6);
	if (entries != expected) {
		fprintf(stderr, "ops: readdir gave %d entries, not %d\n", entries, expected);
		exit(1);
	}
}

static void measure_stream(const char *name, int flags, int megabytes)
{
	double start = now();
	int fd = open_or_die("big", flags);
	for (int i = 0; i < megabytes; i++) {
		for (ssize_t done = 0, n; done < MEGABYTE; done += n) {
			n = flags & O_CREAT ? write(fd, buffer + done, MEGABYTE - done)
					    : read(fd, buffer + done, MEGABYTE - done);
			if (n <= 0)
				die(name, "big");
		}
	}
	if (close(fd))
		die("close", "big");
	row(name, "MB/s", megabytes / (now() - start) * MEGABYTE / 1e6);
}

static int micro(const char *directory, int count, int megabytes)
{
	if (chdir(directory))
		die("chdir", directory);
	measure("create", create, count);
	measure("stat_after", stat_each, count);
	measure("stat_same", stat_same, count);
	measure("stat_missing", stat_missing, count);
	measure("open_close", open_close, count);
	measure("open_write", open_write, count);
	measure("open_read", open_read, count);
	shared_fd = open_or_die("f0", O_RDWR);
	measure("pwrite", pwrite_block, count);
	measure("pread", pread_block, count);
	measure("fstat", fstat_open, count);
	close(shared_fd);
	measure_list("readdir", 0, count + 2);
	measure_list("readdir_stat", 1, count + 2);
	measure("rename", rename_each, count);
	measure("unlink", unlink_each, count);
	measure("mkdir_rmdir", mkdir_rmdir, (count + 2) / 3);
	measure_stream("seq_write", O_CREAT | O_TRUNC | O_WRONLY, megabytes);
	measure_stream("seq_read", O_RDONLY, megabytes);
	measure_stream("seq_reread", O_RDONLY, megabytes);
	if (unlink("big"))
		die("unlink", "big");
	return 0;
}

/* --- clients --- */

#define CLIENT_FILES 256

static uint64_t client(unsigned seed, double end)
{
	uint64_t calls = 0;
	struct stat st;
	for (; now() < end; calls++) {
		int choice = rand_r(&seed) % 10;
		const char *name = name_of("c", rand_r(&seed) % CLIENT_FILES);
		if (choice < 4) {
			int fd = open_or_die(name, O_RDONLY);
			if (pread(fd, buffer, BLOCK, 0) != BLOCK)
				die("pread", name);
			close(fd);
		} else if (choice < 6) {
			int fd = open_or_die(name, O_WRONLY);
			if (pwrite(fd, buffer, BLOCK, 0) != BLOCK)
				die("pwrite", name);
			close(fd);
		} else if (stat(name, &st)) {
			die("stat", name);
		}
	}
	return calls;
}

static int clients(const char *directory, int count, double seconds)
{
	int failed = 0, status;
	uint64_t total = 0;
	uint64_t *calls = mmap(NULL, count * sizeof *calls, PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (calls == MAP_FAILED)
		die("mmap", "counters");
	if (chdir(directory))
		die("chdir", directory);
	for (int i = 0; i < CLIENT_FILES; i++) {
		int fd = open_or_die(name_of("c", i), O_CREAT | O_WRONLY);
		if (write(fd, buffer, BLOCK) != BLOCK)
			die("write", name_of("c", i));
		close(fd);
	}
	double start = now();
	for (int i = 0; i < count; i++) {
		pid_t pid = fork();
		if (pid < 0)
			die("fork", "client");
		if (!pid) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			calls[i] = client(i + 1, start + seconds);
			_exit(0);
		}
	}
	while (wait(&status) > 0)
		failed |= status;
	if (failed)
		return 1;
	for (int i = 0; i < count; i++)
		total += calls[i];
	row("calls", "ops/s", total / (now() - start));
	return 0;
}

/* --- walk --- */

static int walked;

static int visit(const char *path, const struct stat *st, int type, struct FTW *where)
{
	(void)st, (void)where;
	if (type == FTW_NS || type == FTW_DNR)
		die("stat", path);
	walked++;
	return 0;
}

static int walk(const char *directory)
{
	if (nftw(directory, visit, 16, FTW_PHYS))
		die("nftw", directory);
	row("walked", "entries", walked);
	return 0;
}

/* --- await --- */

/*
 * A stat of a fresh FUSE mount blocks until its server has answered the first request, so the stat
 * that brings another device number is the first one answered.
 */
static int await(const char *directory)
{
	const struct timespec pause = {0, 100 * 1000};
	struct stat before, st;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (stat(directory, &before))
		die("stat", directory);
	row("ready", "s", now());
	do {
		nanosleep(&pause, NULL);
		if (stat(directory, &st))
			die("stat", directory);
	} while (st.st_dev == before.st_dev);
	row("answered", "s", now());
	return 0;
}

int main(int argc, char **argv)
{
	buffer = malloc(MEGABYTE);
	if (!buffer)
		die("malloc", "buffer");
	memset(buffer, 'x', MEGABYTE);
	if (argc == 5 && !strcmp(argv[1], "micro"))
		return micro(argv[2], atoi(argv[3]), atoi(argv[4]));
	if (argc == 5 && !strcmp(argv[1], "clients"))
		return clients(argv[2], atoi(argv[3]), atof(argv[4]));
	if (argc == 3 && !strcmp(argv[1], "walk"))
		return walk(argv[2]);
	if (argc == 3 && !strcmp(argv[1], "await"))
		return await(argv[2]);
	fprintf(stderr, "usage: ops micro|clients|walk|await DIR [...]: see the top of ops.c\n");
	return 2;
}
