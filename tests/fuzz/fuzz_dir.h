/*
 * fuzz_dir.h - a folder in memory for a fuzzer that needs files, gone when it ends.
 */
#ifndef TESTS_FUZZ_DIR_H
#define TESTS_FUZZ_DIR_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

static char dir[] = "/dev/shm/smfs_fuzz.XXXXXX";

static inline void must(bool yes)
{
	if (!yes)
		abort();
}

static inline void fuzz_dir_remove(void)
{
	char cmd[64];

	snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
	if (system(cmd))
		perror(cmd);
}

static inline void fuzz_dir_make(void)
{
	must(mkdtemp(dir) != NULL);
	atexit(fuzz_dir_remove);
}

#endif
