/*
 * cleanup.h - scope-bound release of memory, descriptors and streams.
 *
 *     cleanup_free char *p = strdup(x);
 *     cleanup_fd int fd = open(...);
 *     return steal_fd(&fd);                  // hands ownership on
 */
#ifndef SMFS_BASE_CLEANUP_H
#define SMFS_BASE_CLEANUP_H

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline void cleanup_free_(void *p)
{
	free(*(void **)p);
}

/* Closes and keeps errno, so that it may run between a failure and its report. */
static inline void cleanup_fd_(const int *fd)
{
	if (*fd >= 0) {
		int saved = errno;

		close(*fd);
		errno = saved;
	}
}

static inline void cleanup_file_(FILE **f)
{
	if (*f)
		fclose(*f);
}

static inline void cleanup_dir_(DIR **d)
{
	if (*d)
		closedir(*d);
}

#define cleanup_free __attribute__((cleanup(cleanup_free_)))
#define cleanup_fd   __attribute__((cleanup(cleanup_fd_)))
#define cleanup_file __attribute__((cleanup(cleanup_file_)))
#define cleanup_dir  __attribute__((cleanup(cleanup_dir_)))
/* cleanup(fn) for a type's own `void fn(T **)`. */
#define cleanup_with(fn) __attribute__((cleanup(fn)))

static inline int steal_fd(int *fd)
{
	int v = *fd;

	*fd = -1;
	return v;
}

#define steal_ptr(pp)                         \
	({                                    \
		__typeof__(*(pp)) v_ = *(pp); \
		*(pp) = NULL;                 \
		v_;                           \
	})

#endif
