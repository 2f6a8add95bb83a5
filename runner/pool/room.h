/*
 * room.h - what memory there is for machines: the host's, and what the control groups of the pool,
 * which are its workers' too, leave of it.
 */
#ifndef RUNNER_POOL_ROOM_H
#define RUNNER_POOL_ROOM_H

#include <stdint.h>
#include <sys/types.h>

struct room {
	char *group; /* NULL: no control group limits it */
	uint64_t group_bytes, looked_us;
};

void room_open(struct room *r);
void room_close(struct room *r);
/* Bytes that may be taken now; of a control group as it was some milliseconds ago, at most. */
uint64_t room_available(struct room *r);
/* Bytes that a process has taken: what is resident and no file's. */
uint64_t room_taken(pid_t pid);

#endif
