/*
 * agent_files.h - messages of the agent protocol for files and trees. See agent.h; since version 2.
 *
 * A tree is a sequence of entries, a folder before what is in it; of a file its bytes follow as
 * DATA, exactly as many as its entry says. The first entry has the path "": it is the thing that
 * was asked for, file or folder. DONE ends it. agent_path_check() holds for every path, and a
 * receiver resolves none through a symbolic link: see tree.h.
 */
#ifndef RUNNER_PROTO_AGENT_FILES_H
#define RUNNER_PROTO_AGENT_FILES_H

#include "runner/proto/agent.h"

#define AGENT_DEPTH_MAX 128u /* components of a path in a tree */

/* What was opened. For READ the file, for the others only that it goes on. */
struct agent_opened {
	uint64_t size;
	uint32_t mode; /* permission bits */
	uint32_t uid, gid;
	int64_t mtime_ns;
};
void agent_put_opened(struct writer *w, const struct agent_opened *o);
int agent_get_opened(const struct agent_frame *f, struct agent_opened *o, struct err *err);

struct agent_read {
	char path[AGENT_PATH_MAX + 1]; /* absolute, of a regular file */
	uint64_t offset;
	uint64_t length; /* at most so many bytes; UINT64_MAX: to the end */
};
void agent_put_read(struct writer *w, const struct agent_read *q);
int agent_get_read(const struct agent_frame *f, struct agent_read *q, struct err *err);

struct agent_write {
	char path[AGENT_PATH_MAX + 1]; /* absolute; replaced when all of it has arrived */
	uint32_t mode;		       /* up to 07777 */
	uint32_t uid, gid;
	bool parents; /* make the folders above it that are missing, 0755 */
};
void agent_put_write(struct writer *w, const struct agent_write *q);
int agent_get_write(const struct agent_frame *f, struct agent_write *q, struct err *err);

struct agent_fetch {
	char path[AGENT_PATH_MAX + 1]; /* absolute */
};
void agent_put_fetch(struct writer *w, const struct agent_fetch *q);
int agent_get_fetch(const struct agent_frame *f, struct agent_fetch *q, struct err *err);

struct agent_put {
	char path[AGENT_PATH_MAX + 1]; /* absolute */
	/* When `path` is a folder, the thing goes into it by this name; "": it is merged with it.
	 */
	char name[AGENT_NAME_MAX + 1];
	bool owners; /* keep uid, gid, setuid and setgid; otherwise all is root's */
};
void agent_put_put(struct writer *w, const struct agent_put *q);
int agent_get_put(const struct agent_frame *f, struct agent_put *q, struct err *err);

enum agent_entry_type {
	ENTRY_FILE = 1,
	ENTRY_DIR = 2,
	ENTRY_SYMLINK = 3,
	ENTRY_HARDLINK = 4, /* another name of a file sent before, `target` its path */
	ENTRY_FIFO = 5,
	ENTRY_CHAR = 6,
	ENTRY_BLOCK = 7,
};
struct agent_entry {
	char path[AGENT_PATH_MAX + 1]; /* below the tree's top, "" the top */
	uint8_t type;
	uint32_t mode; /* up to 07777 */
	uint32_t uid, gid;
	int64_t mtime_ns;
	uint64_t size; /* of a file */
	uint64_t rdev;
	char target[AGENT_PATH_MAX + 1]; /* of a symbolic link any text, of a hard link a path */
};
void agent_put_entry(struct writer *w, const struct agent_entry *e);
/* Checks paths, type, mode, and that there is a target where there has to be. */
int agent_get_entry(const struct agent_frame *f, struct agent_entry *e, struct err *err);
/*
 * "" or components divided by single slashes, none of them "." or "..", of at most 255 bytes and
 * AGENT_DEPTH_MAX in all.
 */
bool agent_path_check(const char *path);

struct agent_done {
	uint64_t entries; /* of a tree, the top included */
	uint64_t bytes;	  /* of file content */
	uint64_t skipped; /* what cannot be sent or made here: sockets, and on a host devices */
};
void agent_put_done(struct writer *w, const struct agent_done *d);
int agent_get_done(const struct agent_frame *f, struct agent_done *d, struct err *err);

#endif
