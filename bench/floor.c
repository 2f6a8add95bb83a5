/*
 * floor RAM - the least a restore can be: what bench/restore.c holds smvm-runner against.
 *
 * Maps the snapshot's `ram` MAP_PRIVATE, makes a bare VM over it (bare.h) and runs it. Bytes the
 * guest writes to the serial port go to standard output.
 *
 * FLOOR_BARE=1 leaves out interrupt chips and CPUID: shown beside, not the bar, since the
 * guest could not be resumed without them.
 */
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench/bare.h"

int main(int argc, char **argv)
{
	struct bare_vm b;
	struct stat st;
	uint8_t *ram;
	size_t n;
	int fd;

	if (argc != 2) {
		fprintf(stderr, "usage: floor RAM\n");
		return 2;
	}
	CHECK(fd = open(argv[1], O_RDONLY | O_CLOEXEC));
	CHECK(fstat(fd, &st));
	ram = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE,
		   fd, 0);
	if (ram == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	bare_vm_new(&b, ram, (uint64_t)st.st_size, getenv("FLOOR_BARE") != NULL);
	for (;;) {
		const uint8_t *p = bare_vm_next(&b, &n);

		CHECK(write(STDOUT_FILENO, p, n));
	}
}
