/*
 * fs.h - inside the FUSE server: the mount, its inodes, and the operations each kind of inode has.
 *
 *   mount.c    session, start and stop                 names.c    snapshots/ images/ layers/
 *   channel.c  the device, its threads, raw bytes
 *   ops*.c     requests in, replies out                tree.c     what is stored: dirs and files
 *   node.c     the inode table                         control.c  .smfs/
 *   dircache.c parsed directories                      stage.c    snapshots being copied in
 *   hidden.c   half-removed snapshots                  publish.c  ... and made real
 *   hot*.c     files the kernel serves by itself
 *
 * A request arrives in ops*.c, which finds the inode and calls its operation; an operation a kind
 * of inode lacks is EROFS (changes) or ENOTSUP. Operations return 0 or a negative errno and fill
 * err, know nothing of FUSE's wire, and may run in any number of threads at once.
 */
#ifndef SMFS_MOUNT_FS_H
#define SMFS_MOUNT_FS_H

#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>

#include "smfs/base/err.h"
#include "smfs/mount/channel.h"
#include "smfs/mount/dircache.h"
#include "smfs/mount/letgo.h"
#include "smfs/mount/listing.h"
#include "smfs/mount/mount.h"
#include "smfs/mount/node.h"
#include "smfs/mount/stats.h"
#include "smfs/mount/takeover.h"

struct inode;
struct handle;
struct stage;
struct stage_file;
struct stage_area;
struct readahead;
struct readahead_pool;
struct hot;
struct hot_file;

/* What an inode number is derived from (node_key.tag). */
enum key_tag {
	KEY_FIXED = 1, /* a = which of the directories and files every mount has */
	KEY_PREFIX,    /* id = SHA-256 of the path below images/ */
	KEY_NAME,      /* a = seq of publication, b = kind, id = root (images, layers: and name) */
	KEY_DIR,       /* a = parent's number, b = index: a directory has one place */
	KEY_ENTRY,     /* id = directory object, a = index */
	KEY_LINK,      /* id = root of the tree, a = hard link group */
	KEY_BLOB,      /* id, a, b = content: one page-cache copy whatever its name */
	KEY_STAGE,     /* a = serial number of the thing being copied in */
};

/* Where a stored inode is: decides what its attributes are. */
enum place {
	IN_SNAPSHOT, /* guest memory holds secrets: root's alone */
	IN_IMAGE,    /* the files of the image itself */
	IN_TREE,     /* rootfs/ and layers/: as the entries say */
};

struct inode_ops {
	/* Directories. A new inode, not yet in the table; -ENOENT. */
	int (*lookup)(struct smfs_mount *m, struct inode *dir, const char *name, struct inode **out,
		      struct err *err);
	int (*list)(struct smfs_mount *m, struct inode *dir, struct listing *l, struct err *err);
	int (*mkdir)(struct smfs_mount *m, struct inode *dir, const char *name, struct inode **out,
		     struct err *err);
	int (*rmdir)(struct smfs_mount *m, struct inode *dir, const char *name, struct err *err);
	int (*create)(struct smfs_mount *m, struct inode *dir, const char *name, struct inode **out,
		      struct err *err);
	int (*unlink)(struct smfs_mount *m, struct inode *dir, const char *name, struct err *err);
	/*
	 * Both directories have the same ops. 1: done(arg, result) will be called, as for flush.
	 */
	int (*rename)(struct smfs_mount *m, struct inode *from_dir, const char *from,
		      struct inode *to_dir, const char *to, unsigned flags,
		      void (*done)(void *arg, int r), void *arg, struct err *err);
	/* Any. */
	int (*getattr)(struct smfs_mount *m, struct inode *i, struct stat *st, struct err *err);
	/* Files. `size` is a new size, or -1: only attributes that are accepted and ignored. */
	int (*setattr)(struct smfs_mount *m, struct inode *i, struct handle *h, int64_t size,
		       struct err *err);
	int (*open)(struct smfs_mount *m, struct inode *i, struct handle *h, struct err *err);
	void (*release)(struct smfs_mount *m, struct handle *h);
	ssize_t (*read)(struct smfs_mount *m, struct handle *h, void *buf, size_t len, uint64_t off,
			struct err *err);
	/*
	 * The same without a copy, if the bytes are in memory already: where they are, and in *len
	 * how many; NULL: they are to be read. What was lent stays until it is given back.
	 */
	const void *(*lend)(struct smfs_mount *m, struct handle *h, size_t *len, uint64_t off);
	void (*take_back)(struct smfs_mount *m, struct handle *h, const void *p, uint64_t off);
	ssize_t (*write)(struct smfs_mount *m, struct handle *h, const void *buf, size_t len,
			 uint64_t off, struct err *err);
	int (*fallocate)(struct smfs_mount *m, struct handle *h, int mode, uint64_t off,
			 uint64_t len, struct err *err);
	int (*seek)(struct smfs_mount *m, struct handle *h, uint64_t off, int whence, uint64_t *out,
		    struct err *err);
	/*
	 * A descriptor of the file was closed. Calls done(arg, 0 or -errno) once, now or later and
	 * from whichever thread: publishing must not hold a thread that readers need.
	 */
	void (*flush)(struct smfs_mount *m, struct handle *h, void (*done)(void *arg, int r),
		      void *arg);
};

struct inode {
	struct node node; /* first: the table sees only this */
	/*
	 * Left by an earlier server and not needed since: only what is above `ops` is filled, and
	 * inode_wake() is to be called before the rest is used.
	 */
	_Atomic bool asleep;
	struct smfs_mount *mount;
	_Atomic(struct hot_file *) hot; /* hot.c; NULL: never hot */
	const struct inode_ops *ops;
	char *name; /* last component it was first found by, for messages */
	/* May change, or its name may come to mean something else: the kernel asks every time. */
	bool volatile_attr, volatile_name;
	bool keep_cache; /* content never changes: the kernel may keep it from open to open */
	struct stat st;	 /* all but st_ino and st_blocks */

	/* tree.c: stored things. `entry` points into `in` and is NULL for blobs and roots. */
	enum place place;
	struct dirobj *in;
	const struct smfs_entry *entry;
	struct smfs_content content;	  /* files */
	_Atomic(struct smfs_file *) file; /* opened on first use */
	_Atomic int64_t blocks;		  /* -1 until known */
	_Atomic uint64_t bad_range;	  /* last range reported bad, so as not to repeat it */
	struct smfs_id dir, tree;	  /* directories: object, and root of the tree it is in */
	_Atomic(struct dirobj *) obj;	  /* `dir`, read on first use */

	/* names.c: the root of a name, a kind's directory, a part of an image's reference. */
	enum smfs_kind kind;
	uint64_t seq;
	smfs_lease lease; /* of everything below a name's root */
	char *prefix;

	/* control.c */
	unsigned control;

	/* stage.c: referenced. */
	struct stage *stage;
	struct stage_file *stage_file;
};

/* How an open file is served: settled with its open (hot.h). */
enum handle_mode { HANDLE_PLAIN, HANDLE_COLD, HANDLE_HOT };

/* One open file or directory. */
struct handle {
	struct handle *prev, *next; /* of the mount, under handles_lock */
	uint64_t fh;		    /* what the kernel calls it */
	struct inode *inode;	    /* referenced */
	int flags;		    /* open(2)'s */
	bool direct;		    /* no page cache */
	enum handle_mode mode;
	bool listed;	      /* `listing` is filled */
	pthread_mutex_t lock; /* `listing` */
	struct listing listing;
	char *text; /* control.c */
	size_t text_len;
	_Atomic(struct readahead *) ahead; /* NULL until reads look sequential */
	_Atomic uint64_t next_off;
	bool pending,
		wrote; /* stage.c: counts as a writer of its file; wrote since the last flush */
};

/* Entries of a published snapshot unlinked through this mount, on the way to its rmdir. */
#define HIDDEN_FILES 64

struct smfs_mount {
	struct smfs_store *store;
	char *dir, *store_dir; /* absolute */
	bool read_only;
	struct node_table nodes;
	struct dircache dirs;
	struct inode *root;
	struct stats stats;

	/* What the next server must know; see takeover.h. */
	struct takeover *takeover;
	struct takeover_area *area;
	pthread_mutex_t wake_lock;
	/* Copies an earlier server had published without telling who waited. */
	uint64_t told_late[TAKEOVER_STAGES];
	size_t ntold_late;

	pthread_mutex_t names_lock; /* the three below, and area->hidden */
	size_t nhidden;
	uint64_t names_seq; /* of the store, when last looked at */
	struct timespec names_changed;

	struct stage_area *stages; /* NULL in a read-only mount */
	struct readahead_pool *readahead;
	struct letgo *letgo; /* NULL while requests are not served */
	struct hot *hot;     /* NULL: everything is cold */

	pthread_mutex_t handles_lock;
	struct handle *handles;		   /* the kernel drops some unreleased when forced */
	_Atomic(struct handle *) *by_slot; /* TAKEOVER_HANDLES; set under the lock */

	pthread_key_t buffers; /* of each serving thread: FS_IO_MAX bytes */

	/* mount.c */
	struct channel *channel;
	struct fuse_session *se;
	pthread_t server;
	pthread_mutex_t state_lock; /* `ended` */
	bool ended;
	bool kept; /* another process may go on from here */
	int ended_fd;
};

/* ---- inodes (inode.c) ---------------------------------------------------------------------- */

/* A new inode below `parent` (NULL for a root); NULL without memory (err filled). */
struct inode *inode_new(struct smfs_mount *m, struct inode *parent, const char *name,
			const struct inode_ops *ops, const struct node_key *key, mode_t mode,
			struct err *err);
/* Frees an inode that never reached the table; also the table's destroy. */
void inode_destroy(struct node *n);
static inline struct inode *inode_parent(const struct inode *i)
{
	return (struct inode *)i->node.parent;
}
/* The path inside the mount it was first found by, for messages. */
#define INODE_PATH_MAX 1024
const char *inode_path(const struct inode *i, char buf[INODE_PATH_MAX]);

/* ---- takeover_wake.c ----------------------------------------------------------------------- */

/* Fill in an inode that is asleep, and its parents. From request handlers only. */
int inode_wake(struct smfs_mount *m, struct inode *i, struct err *err);
/* All that an earlier server left: before the first request, after the root is set. */
int takeover_restore(struct smfs_mount *m, struct err *err);
/* node_table.describe */
size_t takeover_describe(const struct node *n, uint8_t *out);

/* ---- tree.c -------------------------------------------------------------------------------- */

/* The stored directory `id` as an inode of the given key; `tree` is the root of its tree. */
int tree_dir_new(struct smfs_mount *m, struct inode *parent, const char *name,
		 const struct node_key *key, enum place place, const struct smfs_id *id,
		 const struct smfs_id *tree, struct inode **out, struct err *err);
/* Entry `index` of a directory as a new inode; -ESTALE if there is none. */
int tree_child(struct smfs_mount *m, struct inode *dir, size_t index, struct inode **out,
	       struct err *err);
/* A file of a snapshot or an image by its key alone. */
int tree_blob(struct smfs_mount *m, struct inode *parent, const char *name,
	      const struct node_key *key, struct inode **out, struct err *err);
/* The parsed directory; owned by the inode. */
int tree_dir(struct smfs_mount *m, struct inode *i, struct smfs_dir **out, struct err *err);
void tree_destroy(struct inode *i);
extern const struct inode_ops tree_dir_ops, tree_file_ops, tree_other_ops;

/* The file, open. Owned by the inode. */
int tree_file(struct smfs_mount *m, struct inode *i, struct smfs_file **out, struct err *err);

/* ---- xattr.c ------------------------------------------------------------------------------- */

/*
 * getxattr(2) and listxattr(2): the length in *len, copied if `cap` is not 0, -ERANGE if it is
 * and too small.
 */
/* lineage.c: the value of user.smfs.own.SNAPSHOT, in memory the caller frees (also on error). */
int lineage_get(struct smfs_mount *m, struct inode *i, const char *snapshot, char **out,
		size_t *len, struct err *err);
int xattr_get(struct smfs_mount *m, struct inode *i, const char *name, void *buf, size_t cap,
	      size_t *len, struct err *err);
int xattr_list(struct inode *i, void *buf, size_t cap, size_t *len, struct err *err);

/* ---- names.c ------------------------------------------------------------------------------- */

int names_root_new(struct smfs_mount *m, struct inode **out, struct err *err);
/* The published snapshot `name` as an inode. -ENOENT. */
int names_find(struct smfs_mount *m, struct inode *parent, enum smfs_kind kind, const char *name,
	       struct inode **out, struct err *err);
/* The same, from its record. */
int names_inode(struct smfs_mount *m, struct inode *parent, const struct smfs_name *n,
		struct inode **out, struct err *err);
/* The directory of a part of a reference. */
int names_prefix_new(struct smfs_mount *m, struct inode *dir, const char *name, const char *path,
		     struct inode **out, struct err *err);
/* Entry `index` of the snapshot published as `seq` was unlinked here. */
bool names_is_hidden(struct smfs_mount *m, uint64_t seq, size_t index);
int names_hide(struct smfs_mount *m, uint64_t seq, size_t index, struct err *err);
void names_unhide(struct smfs_mount *m, uint64_t seq);

/* ---- control.c ----------------------------------------------------------------------------- */

int control_dir_new(struct smfs_mount *m, struct inode *parent, struct inode **out,
		    struct err *err);

/* ---- stage.c ------------------------------------------------------------------------------- */

int stage_area_new(struct smfs_mount *m, struct stage_area **out, struct err *err);
/* Publish no more, and wait for what is being published. */
void stage_area_drain(struct stage_area *a);
/* This process is the one that serves from here on: number what is copied in accordingly. */
void stage_area_begin(struct stage_area *a);
void stage_area_free(struct stage_area *a);
size_t stage_area_count(struct stage_area *a);
/* The directory being copied in as `name`: a new inode. -ENOENT. */
int stage_find(struct smfs_mount *m, struct inode *parent, const char *name, struct inode **out,
	       struct err *err);
int stage_list(struct smfs_mount *m, struct listing *l, struct err *err);
int stage_mkdir(struct smfs_mount *m, struct inode *parent, const char *name, struct inode **out,
		struct err *err);
/* -ENOENT if nothing of that name is being copied in. */
int stage_rmdir(struct smfs_mount *m, const char *name, struct err *err);
int stage_rename(struct smfs_mount *m, const char *from, const char *to, struct err *err);
/* A snapshot published by this mount a short while ago: cp -a still sets its attributes. */
bool stage_imported(struct smfs_mount *m, uint64_t seq);
void stage_destroy(struct inode *i);

/* ---- ops.c --------------------------------------------------------------------------------- */

/* Largest read or write request: what the kernel's 256 pages hold. */
#define FS_IO_MAX (1u << 20)

struct fuse_lowlevel_ops;
extern const struct fuse_lowlevel_ops fs_ops;
/* Release what the kernel has not: no request may be in flight. */
void fs_close_all(struct smfs_mount *m);
/* An open file as an earlier server left it. */
int fs_restore_handle(struct smfs_mount *m, struct inode *i, int flags, unsigned mode, uint64_t fh);

#endif
