/*
 * synth SEED BYTES - that many bytes no other seed gives, on standard output: of each page a
 * quarter is noise and the rest repeats it, so that it compresses about as guest RAM does.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE 4096u

int main(int argc, char **argv)
{
	static uint64_t page[PAGE / sizeof(uint64_t)];
	const size_t noise = PAGE / sizeof(uint64_t) / 4;

	if (argc != 3) {
		fputs("usage: synth SEED BYTES\n", stderr);
		return 2;
	}
	uint64_t x = (strtoull(argv[1], NULL, 10) + 1) * 0x9e3779b97f4a7c15u;

	for (uint64_t left = strtoull(argv[2], NULL, 10) / PAGE; left; left--) {
		for (size_t i = 0; i < noise; i++) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			page[i] = x;
		}
		for (size_t i = 1; i < 4; i++)
			memcpy(page + i * noise, page, noise * sizeof(*page));
		if (fwrite(page, PAGE, 1, stdout) != 1) {
			perror("bench synth");
			return 2;
		}
	}
	return fflush(stdout) ? 2 : 0;
}
