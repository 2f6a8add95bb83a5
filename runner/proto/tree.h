/*
 * tree.h - files and trees over an agent connection: agent_files.h's frames from and to a file
 * system. The same code is the agent's and the host's, since both ends distrust what they receive:
 *
 * - a path that is absolute, has "..", or goes through a symbolic link, one that came with the tree
 *   or one that was there, makes nothing and ends the transfer;
 * - files, links and special files get a name when they are whole, by rename, so that nothing that
 *   was there is written through;
 * - nothing is followed in a tree that is sent: it may change meanwhile.
 *
 * Memory is bounded by TREE_DIRS_MAX for folders whose modes are set at the end, and on the sending
 * side by TREE_LINKS_MAX files with several names (those beyond are sent as files of their own).
 * Nothing here has state; any thread.
 */
#ifndef RUNNER_PROTO_TREE_H
#define RUNNER_PROTO_TREE_H

#include "runner/proto/agent_files.h"

#define TREE_DIRS_MAX  (64u << 20) /* bytes */
#define TREE_LINKS_MAX 100000u
#define TREE_ENTRIES   4000000u /* a tree from a guest has no more, unless asked for */

struct tree_policy {
	bool owners;  /* uid, gid, setuid, setgid and sticky as sent; otherwise whoever runs this */
	bool devices; /* make devices and FIFOs; otherwise they are skipped */
	uint64_t max_bytes, max_entries; /* EFBIG, E2BIG beyond */
	int idle_ms;			 /* the peer may be silent for so long, -1: for ever */
};

/*
 * Where a copy to `path` goes: into it, when it is a folder, by `name` ("": merged with it), or
 * else by its own last component into what is above it. `root` -1: any path of this process's;
 * otherwise `path` is absolute and resolved inside the folder `root`. *dirfd is new; `as` has the
 * name, "." to merge.
 */
int tree_target(int root, const char *path, const char *name, int *dirfd,
		char as[AGENT_NAME_MAX + 1], struct err *err);
/* open(2) of `path` inside `root`, as above. */
int tree_open(int root, const char *path, int flags, struct err *err);

/*
 * Send `name` of `dirfd`, and DONE. `conn` gets frames only from here meanwhile. An ERROR from the
 * peer becomes the error, EPROTO anything else from it.
 */
int tree_send(int conn, int dirfd, const char *name, int idle_ms, struct agent_done *done,
	      struct err *err);
/* Receive up to the sender's DONE. `f` is the connection's frame, for reuse. */
int tree_receive(int conn, struct agent_frame *f, int dirfd, const char *name,
		 const struct tree_policy *p, struct agent_done *done, struct err *err);

/* At most `length` bytes of `fd` from `offset` as DATA, then DONE. */
int file_send(int conn, int fd, uint64_t offset, uint64_t length, int idle_ms,
	      struct agent_done *done, struct err *err);
/* DATA into `fd`, from where it is, up to DONE. `what` is for the error. */
int file_receive(int conn, struct agent_frame *f, int fd, const char *what, uint64_t max_bytes,
		 int idle_ms, struct agent_done *done, struct err *err);
/* Make `name` of `dirfd` a new file of another name for now, which is `tmp`: rename or unlink it.
 */
int file_begin(int dirfd, char tmp[32], struct err *err);

#endif
