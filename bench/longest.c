/*
 * longest FILE SECONDS - read 4 KiB at random places of FILE for that long, none of them from the
 * page cache, and print how many reads there were and how long the longest took, in microseconds:
 * what a reader notices of whatever goes on meanwhile.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096

static int fail(const char *what)
{
	fprintf(stderr, "bench longest: ");
	perror(what);
	return 2;
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int main(int argc, char **argv)
{
	char buf[PAGE];
	uint64_t longest = 0, reads = 0, x = 88172645463325252u;
	struct stat st;

	if (argc != 3) {
		fputs("usage: longest FILE SECONDS\n", stderr);
		return 2;
	}
	const int fd = open(argv[1], O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0 || st.st_size < PAGE)
		return fail(argv[1]);
	posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);

	const uint64_t pages = (uint64_t)st.st_size / PAGE;
	const uint64_t end = now_ns() + (uint64_t)(strtod(argv[2], NULL) * 1e9);

	for (uint64_t t = now_ns(); t < end; reads++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		const off_t at = (off_t)(x % pages) * PAGE;

		posix_fadvise(fd, at, PAGE, POSIX_FADV_DONTNEED);
		t = now_ns();
		if (pread(fd, buf, PAGE, at) != PAGE)
			return fail(argv[1]);
		const uint64_t took = now_ns() - t;

		if (took > longest)
			longest = took;
		t += took;
	}
	printf("%llu %.1f\n", (unsigned long long)reads, (double)longest / 1e3);
	return 0;
}
