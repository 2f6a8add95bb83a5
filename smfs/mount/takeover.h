/*
 * takeover.h - what the kernel holds of a mount, in memory that outlives the server.
 *
 * The kernel keeps inode numbers and file handles it was given for as long as it likes, and uses
 * them with whichever process answers. So a server writes them down: each inode the kernel holds
 * lookups on (or that an open file or a child needs), and each open file. The next server reads the
 * table and goes on. A mount without a keeper has the same table in memory of its own: one code.
 *
 * LAYOUT. One mapping of fixed, sparse size: a header, then arrays of nodes, handles, and cells of
 * text. Only what was once used takes memory: 104 bytes an inode (and 64 or more for the root of a
 * name), 32 an open file. Free entries are linked; the links are the server's alone and made anew
 * by the next.
 *
 * KILLED AT ANY INSTRUCTION. An entry is live once one word is stored (a node's `ino`, a handle's
 * `open`), after all else; it is freed by clearing that word. Cells belong to the live node that
 * leads to them. Counts are single words. The order against the kernel makes every error a safe
 * one: a lookup is counted before the kernel is told, and taken back after the kernel has dropped
 * it, so a kill leaves at worst a count too high, an inode that is kept until the mount ends; never
 * one too low. A handle is entered before the kernel is told of it; it remembers the request that
 * opened it, and if that is sent again the handle is found and replaced.
 *
 * FULL. An inode that finds no room is served as ever; it is only not known to the next server,
 * which answers ESTALE, and neither are those below it. It is counted and logged. An open file that
 * finds no room is refused: there are a million.
 *
 * THREADS. Nodes: under the node table's lock. Handles: under the mount's handles_lock. One
 * process at a time writes; which one is the keeper's to see to.
 */
#ifndef SMFS_MOUNT_TAKEOVER_H
#define SMFS_MOUNT_TAKEOVER_H

#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "smfs/base/err.h"
#include "smfs/mount/channel.h"
#include "smfs/mount/node.h"

#define TAKEOVER_NODES	 ((uint32_t)4 << 20)
#define TAKEOVER_HANDLES ((uint32_t)1 << 20)
#define TAKEOVER_CELLS	 ((uint32_t)2 << 20)
/* With every entry in use: 416 + 32 + 128 MiB and the header. */

#define TAKEOVER_TEXT_MAX 512 /* bytes that go with a node */

struct takeover_node {
	_Atomic uint64_t ino; /* 0: free */
	uint64_t parent;      /* ino; of a free entry: the next one */
	struct node_key key;
	_Atomic uint64_t lookups;
	uint64_t detail; /* node.detail */
	_Atomic int32_t backing;
	uint16_t text_len;
	uint16_t unused;
	uint32_t text; /* first cell, 1 and up */
};

struct takeover_handle {
	_Atomic uint32_t open, generation;
	uint64_t ino; /* of a free entry: the next one */
	uint64_t unique;
	uint32_t flags;
	_Atomic uint32_t mode; /* enum handle_mode: the kernel must be told the same for ever */
};

struct takeover_cell {
	uint32_t next; /* 0: the last */
	uint8_t bytes[60];
};

/* Snapshots being copied in: they go with the server, and the next one tells whose they were. */
#define TAKEOVER_STAGES 64
struct takeover_stage {
	_Atomic uint64_t serial; /* 0: free */
	_Atomic uint32_t publishing;
	char name[SMFS_REF_MAX + 1];
	struct smfs_id root; /* while publishing */
};

#define TAKEOVER_HIDDEN	  1024
#define TAKEOVER_IMPORTED 64
struct takeover_hidden {
	_Atomic uint64_t seq, mask; /* seq 0: free */
};

/* Bumped with every change of a structure here or in channel.h. */
#define TAKEOVER_VERSION 2

struct takeover_area {
	uint32_t version, size_check;
	_Atomic uint32_t servers; /* started so far */
	_Atomic int32_t keeper;	  /* process id; 0: none */
	char dir[PATH_MAX], store[PATH_MAX];
	_Atomic uint32_t flags;				       /* of the mount: SMFS_MOUNT_... */
	_Atomic uint64_t nodes_high, handles_high, cells_high; /* entries ever used */
	_Atomic uint64_t nodes, handles, unprotected;	       /* telemetry */
	_Atomic uint64_t last_pause_us, max_pause_us;
	struct takeover_hidden hidden[TAKEOVER_HIDDEN];
	_Atomic uint64_t imported[TAKEOVER_IMPORTED];
	struct takeover_stage stages[TAKEOVER_STAGES];
	struct channel_record channel;
};

struct takeover;

/* A memory file for takeover_map(), empty; the keeper's part. */
int takeover_create(struct err *err);
/*
 * Map `fd`, or memory of this process alone if -1. EPROTO: made by another version. Entries are as
 * the server before left them, which may still be running: nothing is written before
 * takeover_begin().
 */
int takeover_map(int fd, struct takeover **out, struct err *err);
void takeover_unmap(struct takeover *t); /* NULL is fine */
struct takeover_area *takeover_area(struct takeover *t);

/* What the table takes, and how it went, as metrics; nothing for a mount without a keeper. */
void takeover_stats(struct takeover *t, FILE *f);

/* From here on this process writes: find the free entries. */
void takeover_begin(struct takeover *t);

/* ---- nodes ----------------------------------------------------------------------------------- */

#define TAKEOVER_NONE UINT32_MAX

/* Enter a node with its number, parent, key, lookups and detail: its slot, or TAKEOVER_NONE. */
uint32_t takeover_add_node(struct takeover *t, const struct node *n, const void *text,
			   size_t text_len);
void takeover_set_lookups(struct takeover *t, uint32_t slot, uint64_t lookups);
void takeover_set_backing(struct takeover *t, uint32_t slot, int32_t backing);
void takeover_drop_node(struct takeover *t, uint32_t slot);
/* The next live node at or after *slot, which is moved past it; NULL at the end. */
const struct takeover_node *takeover_next_node(struct takeover *t, uint32_t *slot);
const struct takeover_node *takeover_node(struct takeover *t, uint32_t slot);
/* Its text into `out`: the length. */
size_t takeover_text(struct takeover *t, const struct takeover_node *n,
		     uint8_t out[TAKEOVER_TEXT_MAX]);

/* ---- handles --------------------------------------------------------------------------------- */

/* What the kernel is given as file handle: slot and generation. */
uint64_t takeover_add_handle(struct takeover *t, uint64_t ino, uint32_t flags, uint64_t unique);
#define TAKEOVER_NO_HANDLE UINT64_MAX
void takeover_set_mode(struct takeover *t, uint64_t fh, unsigned mode);
void takeover_drop_handle(struct takeover *t, uint64_t fh);
const struct takeover_handle *takeover_next_handle(struct takeover *t, uint32_t *slot,
						   uint64_t *fh);
static inline uint32_t takeover_handle_slot(uint64_t fh)
{
	return (uint32_t)fh;
}

#endif
