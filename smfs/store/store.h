/*
 * store.h - the content-addressed store: libsmfs's public interface, and its manual.
 *
 * MODEL. A store is a directory on the host. It holds
 *   - chunks: pieces of file content, named by the SHA-256 of their bytes, kept compressed in
 *     append-only pack files, each distinct chunk once;
 *   - maps: Merkle trees over the chunks of one file (a file that fits one chunk needs none);
 *   - directories: sorted lists of entries, each a node named by its hash, so equal subtrees of
 *     two images are one object;
 *   - names: (kind, name) -> a directory. Snapshots, layers and images are names of
 *     directories and nothing else: snapshots/x is a directory of `meta`, `ram`, `vcpu`; an
 *     image has `manifest.json`, `config.json`, `rootfs`, `rootfs.erofs`; a layer is its tree.
 * Content and directories never change; only names come and go, atomically.
 *
 * WRITING happens in an ingest: add files and directories in any order, stage names, commit.
 * Before commit nothing is visible; after it (return 0) everything survives power loss. Abort,
 * or death at any point, leaves at most unreferenced frames. Any number of processes may ingest
 * and read at once; commits are serialised by the index for the length of one transaction.
 *
 * THREADS. A struct smfs_store may be shared by threads. A struct smfs_ingest may be shared by
 * threads (layers are ingested in parallel). A struct smfs_stream or struct smfs_dir belongs to
 * one thread at a time. A struct smfs_file may be read by many threads. A process opens a store
 * once at a time (EBUSY; LMDB does not bear two), and a handle is not used across fork(2): the
 * child opens its own. Streams and files must be closed before their ingest or store.
 *
 * ERRORS. 0 or a negative errno, with *err filled (see err.h). Those with a fixed meaning:
 *   ENOENT  no such name                  EEXIST   name taken
 *   EBADMSG stored bytes fail their checksum or do not parse: the message names what is hit
 *   EROFS   store opened read-only        ENOSPC   disk full: nothing visible has changed
 *   EDQUOT  the store's limit is reached: nothing visible has changed
 *   EBUSY   open in this process already  EINVAL   invalid name or entry
 *   ENOTSUP format newer than this library
 *
 * UNITS. Sizes and offsets are bytes. Times are nanoseconds since the epoch, UTC.
 */
#ifndef SMFS_STORE_STORE_H
#define SMFS_STORE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "smfs/base/err.h"

#define SMFS_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

struct smfs_store;
struct smfs_ingest;
struct smfs_stream;
struct smfs_file;

#define SMFS_ID_LEN 32
struct smfs_id {
	uint8_t b[SMFS_ID_LEN];
};

/* ---- store -------------------------------------------------------------------------------- */

#define SMFS_DEFAULT_STORE "/var/lib/smfs"
#define SMFS_DEFAULT_MOUNT "/mnt/smfs"

/* Create an empty store in `dir` (made if missing, must be empty). EEXIST if it is a store. */
SMFS_API int smfs_store_init(const char *dir, struct err *err);

#define SMFS_RDONLY 1u
/*
 * Ingests compare bytes with every frame they find by its id, for who does not want to rely on
 * SHA-256: two contents that meet in one id are then refused (EBADMSG), the first stays. Reading
 * the frame back makes ingesting a duplicate about as slow as ingesting anew. Not for
 * smfs_bundle_read().
 */
#define SMFS_COMPARE 2u
/* Opening for writing finishes or discards what a crashed process left (never blocks readers). */
SMFS_API int smfs_store_open(const char *dir, unsigned flags, struct smfs_store **out,
			     struct err *err);
SMFS_API void smfs_store_close(struct smfs_store *s);
SMFS_API const char *smfs_store_dir(const struct smfs_store *s);
/* Creation time of the store, the mtime of content that has none of its own. */
SMFS_API int64_t smfs_store_created(const struct smfs_store *s);

struct smfs_store_stat {
	uint64_t snapshots, images, layers; /* names of each kind */
	uint64_t chunks, nodes;		    /* distinct frames in the index */
	uint64_t packs;
	uint64_t seq;		/* of the last change of names: how many there were */
	uint64_t logical_bytes; /* sum of the names' logical sizes */
	uint64_t raw_bytes;	/* distinct chunk bytes, uncompressed */
	uint64_t stored_bytes;	/* what they take in packs, headers included */
	uint64_t disk_bytes;	/* packs + index + journal on disk */
	uint64_t free_bytes;	/* available to the store's file system */
	uint64_t quarantined;	/* frames noted as damaged */
	uint64_t healed;	/* frames this handle has made whole again */
	uint64_t limit_bytes;	/* what disk_bytes may become; 0 = no limit */
	uint64_t reserve_bytes; /* of free_bytes, what ingests leave */
	uint64_t left_bytes;	/* what an ingest may still write */
};
SMFS_API int smfs_store_stat(struct smfs_store *s, struct smfs_store_stat *out, struct err *err);
/*
 * Bound disk_bytes (0 = no bound), and set what ingests leave free on the file system (UINT64_MAX =
 * the default, 1 % and 64 MiB at most); NULL leaves either as it is. Holds for running ingests,
 * too. See limit.h for how exactly.
 */
SMFS_API int smfs_store_set_limit(struct smfs_store *s, const uint64_t *limit,
				  const uint64_t *reserve, struct err *err);

/* Bytes, without counting anything else of smfs_store_stat(). */
struct smfs_room {
	uint64_t limit;	  /* 0 = none */
	uint64_t used;	  /* disk_bytes; 0 unless there is a limit */
	uint64_t cache;	  /* materialised files, which are beside disk_bytes; 0 likewise */
	uint64_t reserve; /* of `free`, what ingests leave */
	uint64_t free;	  /* available to the store's file system */
	uint64_t left;	  /* what an ingest may still write */
};
SMFS_API int smfs_store_room(struct smfs_store *s, struct smfs_room *out, struct err *err);
/*
 * The same for one who is about to write `need` bytes to the store's file system and has `beside`
 * there already, of which the store does not know: where they and the cache are not both within
 * limit and reserve, unused files of the cache are removed.
 */
SMFS_API int smfs_store_make_room(struct smfs_store *s, uint64_t need, uint64_t beside,
				  struct smfs_room *out, struct err *err);

/* ---- content ------------------------------------------------------------------------------ */

/*
 * A file's bytes, by value: 44 bytes on disk, comparable with memcmp of its encoding. Equal
 * content written with the same chunking has equal references.
 */
enum smfs_content_kind {
	SMFS_ZERO = 0,	/* `size` zero bytes (also the empty file); id all zero */
	SMFS_CHUNK = 1, /* one chunk, named by id; where it ends before `size`, zeros follow */
	SMFS_MAP = 2,	/* id names the root map node at level `depth` */
};
struct smfs_content {
	uint64_t size;
	uint8_t kind;
	uint8_t depth;
	struct smfs_id id;
};

/* The 44 bytes: size u64, kind u8, depth u8, two zero bytes, id. Decoding refuses (EBADMSG) what
 * no writer produces. */
#define SMFS_CONTENT_LEN 44
SMFS_API void smfs_content_encode(const struct smfs_content *c, uint8_t out[SMFS_CONTENT_LEN]);
SMFS_API int smfs_content_decode(const void *buf, size_t len, struct smfs_content *out,
				 struct err *err);

/* ---- reading content ---------------------------------------------------------------------- */

SMFS_API int smfs_file_open(struct smfs_store *s, const struct smfs_content *c,
			    struct smfs_file **out, struct err *err);
SMFS_API void smfs_file_close(struct smfs_file *f);
/*
 * Read at `off`: the count, short only at end of file. Holes read as zeros. Each frame is
 * verified when it comes from disk; EBADMSG names the frame and touches no other byte.
 */
SMFS_API ssize_t smfs_file_pread(struct smfs_file *f, void *buf, size_t len, uint64_t off,
				 struct err *err);
/* lseek(2)'s SEEK_DATA / SEEK_HOLE: -ENXIO past the last data or end of file. */
SMFS_API int smfs_file_seek(struct smfs_file *f, uint64_t off, int whence, uint64_t *out,
			    struct err *err);
/* Bytes that are not holes (st_blocks * 512), and what the distinct frames take in packs. */
SMFS_API int smfs_file_usage(struct smfs_file *f, uint64_t *data_bytes, uint64_t *stored_bytes,
			     struct err *err);

/*
 * Where its bytes are: `len` bytes at `off` of the file are those from `chunk_off` of a chunk. What
 * no extent covers is zero.
 */
struct smfs_extent {
	uint64_t off;
	uint32_t len, chunk_off;
	struct smfs_id chunk;
};
/* The extents that overlap [off, off + len), whole, ascending; the first `max` of them. */
SMFS_API ssize_t smfs_file_extents(struct smfs_file *f, uint64_t off, uint64_t len,
				   struct smfs_extent *out, size_t max, struct err *err);

/* ---- differences and lineage ----------------------------------------------------------------- */

struct smfs_range {
	uint64_t off, len;
};
/* A negative result ends the comparison and is returned. */
typedef int (*smfs_range_fn)(void *arg, uint64_t off, uint64_t len, struct err *err);
/*
 * Calls `fn` for each range, in 4 KiB pages of the file and ascending, in which two contents
 * differ, the shorter counting as followed by zeros. What the two share in the store costs nothing.
 * With SMFS_DIFF_REFS no content is read: a range may then hold pages that are equal but stored
 * apart.
 */
#define SMFS_DIFF_REFS 1u
SMFS_API int smfs_content_diff(struct smfs_store *s, const struct smfs_content *a,
			       const struct smfs_content *b, unsigned flags, smfs_range_fn fn,
			       void *arg, struct err *err);
/*
 * Lineage: the ranges of `c` that are not its parent's at the same offset, so that a reader may map
 * the parent's file everywhere else. At most `max` (at least 2), whole pages but for the file's
 * end; if there are more, those closest together are joined with what lies between. Whether
 * `parent` is what `c` was made from does not matter: what is found is right for any two.
 */
SMFS_API ssize_t smfs_content_own(struct smfs_store *s, const struct smfs_content *parent,
				  const struct smfs_content *c, struct smfs_range *out, size_t max,
				  struct err *err);

/* ---- writing: ingest ---------------------------------------------------------------------- */

SMFS_API int smfs_ingest_begin(struct smfs_store *s, struct smfs_ingest **out, struct err *err);
/* Always frees `ing`. 0 = durable and visible. On error nothing is visible. */
SMFS_API int smfs_ingest_commit(struct smfs_ingest *ing, struct err *err);
SMFS_API void smfs_ingest_abort(struct smfs_ingest *ing);

struct smfs_ingest_stat {
	uint64_t logical_bytes; /* passed in, holes and zeros included */
	uint64_t zero_bytes;
	uint64_t dup_bytes;    /* found in the store already */
	uint64_t new_bytes;    /* raw bytes of new frames */
	uint64_t stored_bytes; /* what those took */
};
SMFS_API void smfs_ingest_stat(struct smfs_ingest *ing, struct smfs_ingest_stat *out);

/*
 * One file, written front to back. Whole frames are hashed and compressed by the ingest's
 * worker threads. SMFS_STREAM_STABLE promises that memory handed to smfs_stream_write() stays
 * unchanged until smfs_stream_finish() returns, which saves a copy (snapshots write guest RAM so).
 */
#define SMFS_STREAM_STABLE 1u
SMFS_API int smfs_stream_open(struct smfs_ingest *ing, unsigned flags, struct smfs_stream **out,
			      struct err *err);
SMFS_API int smfs_stream_write(struct smfs_stream *st, const void *buf, size_t len,
			       struct err *err);
/* Advance by `len` zero bytes without touching memory. */
SMFS_API int smfs_stream_hole(struct smfs_stream *st, uint64_t len, struct err *err);
/*
 * Start a new chunk here. Chunks otherwise start at multiples of the frame size counted from
 * the last cut, so data cut at the same logical places deduplicates whatever its offset: an EROFS
 * image is cut where each of its files begins and so shares the files' own chunks. Cuts never
 * affect correctness.
 */
SMFS_API int smfs_stream_cut(struct smfs_stream *st, struct err *err);
/*
 * DIFFS. A stream with a base: a file that differs from `base`, a committed content of this
 * store, in some of its 4 KiB pages. smfs_stream_same() advances by bytes that equal the base's
 * at the same offset and reads neither; what of the base is untouched costs no work and next to no
 * space. Pages written are packed together, up to 64 KiB in a chunk, wherever they belong. Pages
 * that are written but equal the base's or are zero are found by comparing, so a whole file
 * may be written against a base; SMFS_STREAM_CHANGED says that what is written does differ, and
 * saves reading the base. The result is a content like any other: it refers to the base's chunks
 * and not to the base, so the base may be removed, and a diff of a diff costs a reader nothing.
 *
 * Any 64 KiB (aligned) of the file come from at most SMFS_DIFF_FRAMES chunks: where a diff
 * would exceed that, the smallest contributions are packed anew with the changed pages.
 *
 * A base that is smaller than the new file counts as followed by zeros. smfs_stream_cut() does
 * nothing in a diff.
 */
#define SMFS_STREAM_CHANGED 2u
#define SMFS_DIFF_FRAMES    8u
SMFS_API int smfs_stream_open_diff(struct smfs_ingest *ing, const struct smfs_content *base,
				   unsigned flags, struct smfs_stream **out, struct err *err);
SMFS_API int smfs_stream_same(struct smfs_stream *st, uint64_t len, struct err *err);
/* Frees `st` in every case. */
SMFS_API int smfs_stream_finish(struct smfs_stream *st, struct smfs_content *out, struct err *err);
SMFS_API void smfs_stream_abort(struct smfs_stream *st);

/* One buffer as one file. */
SMFS_API int smfs_ingest_mem(struct smfs_ingest *ing, const void *buf, size_t len,
			     struct smfs_content *out, struct err *err);
/*
 * The whole of an open file, holes found by SEEK_DATA; `cuts` (may be NULL) are ascending
 * offsets for smfs_stream_cut().
 */
SMFS_API int smfs_ingest_fd(struct smfs_ingest *ing, int fd, const uint64_t *cuts, size_t ncuts,
			    struct smfs_content *out, struct err *err);

/* The same as a diff against `base` (NULL: none). */
SMFS_API int smfs_ingest_fd_diff(struct smfs_ingest *ing, int fd, const struct smfs_content *base,
				 struct smfs_content *out, struct err *err);

/* ---- directories -------------------------------------------------------------------------- */

#define SMFS_NAME_MAX  255
#define SMFS_LINK_MAX  4095  /* symlink target */
#define SMFS_XATTR_MAX 65536 /* names and values of one entry together */

struct smfs_xattr {
	const char *name; /* with its prefix: "security.capability" */
	const void *value;
	size_t len;
};

/* An entry of a directory. When read, every pointer is into the struct smfs_dir. */
struct smfs_entry {
	const char *name; /* 1..255 bytes, no '/', not "." or ".." */
	uint32_t mode;	  /* S_IFMT type and permission bits, as st_mode */
	uint32_t uid, gid;
	uint32_t rdev_major, rdev_minor; /* S_IFCHR, S_IFBLK */
	int64_t mtime_sec;
	uint32_t mtime_nsec;
	/*
	 * Hard links: entries of one tree with the same non-zero `link` are one inode, of which
	 * `nlink` names exist in the tree. 0 and 1 for the ordinary case.
	 */
	uint32_t nlink;
	uint64_t link;
	struct smfs_content content; /* S_IFREG */
	struct smfs_id dir;	     /* S_IFDIR: the directory object */
	const char *target;	     /* S_IFLNK */
	const struct smfs_xattr *xattrs;
	size_t nxattrs;
};

/* Store a directory. Entries in any order; names must be distinct (EINVAL otherwise). */
SMFS_API int smfs_ingest_dir(struct smfs_ingest *ing, const struct smfs_entry *entries, size_t n,
			     struct smfs_id *out, struct err *err);

struct smfs_dir;
SMFS_API int smfs_dir_open(struct smfs_store *s, const struct smfs_id *id, struct smfs_dir **out,
			   struct err *err);
SMFS_API void smfs_dir_close(struct smfs_dir *d);
SMFS_API size_t smfs_dir_count(const struct smfs_dir *d);
/* Sorted by name (strcmp order). Valid until smfs_dir_close(). */
SMFS_API const struct smfs_entry *smfs_dir_at(const struct smfs_dir *d, size_t i);
SMFS_API const struct smfs_entry *smfs_dir_find(const struct smfs_dir *d, const char *name);

/*
 * An object by its path: the attributes of the root of a directory tree are not in any entry.
 * smfs_ingest_dir() of one entry named "." is refused, so a tree's own root attributes travel in
 * the entry that names it: image -> "rootfs"; a layer's root carries its own in the name record.
 */

/* ---- names -------------------------------------------------------------------------------- */

enum smfs_kind { SMFS_SNAPSHOT = 1, SMFS_IMAGE = 2, SMFS_LAYER = 3 };
#define SMFS_REF_MAX 400 /* longest name, bytes */

struct smfs_name {
	enum smfs_kind kind;
	char name[SMFS_REF_MAX + 1];
	struct smfs_id root; /* its directory */
	int64_t created;     /* ns */
	uint64_t seq;	     /* journal sequence number of its publication; also its identity */
	uint64_t logical_bytes;
	/* Attributes of the root directory itself (mode, owner, mtime); xattrs of roots are not
	 * kept. */
	uint32_t mode, uid, gid;
	int64_t mtime;
};

/*
 * Valid names: snapshot [A-Za-z0-9][A-Za-z0-9._-]{0,127};
 * image "<registry>/<repository>:<tag>" (registry may have ":port", repository has '/');
 * layer "sha256:<64 hex>". EINVAL with the reason.
 */
SMFS_API int smfs_name_check(enum smfs_kind kind, const char *name, struct err *err);

/* Stage a name for the commit. EEXIST at commit if taken, unless SMFS_REPLACE. `attr` (mode,
 * uid, gid, mtime) may be NULL: 0755 root, now. Bytes of logical size are summed by the store. */
#define SMFS_REPLACE 1u
SMFS_API int smfs_ingest_name(struct smfs_ingest *ing, enum smfs_kind kind, const char *name,
			      const struct smfs_id *root, const struct smfs_entry *attr,
			      unsigned flags, struct err *err);

SMFS_API int smfs_name_get(struct smfs_store *s, enum smfs_kind kind, const char *name,
			   struct smfs_name *out, struct err *err);
/* Names after `after` (NULL = from the start) in strcmp order; up to `max`; returns the count. */
SMFS_API ssize_t smfs_name_list(struct smfs_store *s, enum smfs_kind kind, const char *after,
				struct smfs_name *out, size_t max, struct err *err);
SMFS_API int smfs_name_remove(struct smfs_store *s, enum smfs_kind kind, const char *name,
			      struct err *err);
/* EEXIST if `to` is taken. */
SMFS_API int smfs_name_rename(struct smfs_store *s, enum smfs_kind kind, const char *from,
			      const char *to, struct err *err);
/* Bumped by every commit, removal and rename: a cheap "has any name changed". */
SMFS_API uint64_t smfs_store_seq(struct smfs_store *s);

/*
 * Snapshots on their way: writing -> ready | failed. That a snapshot is ready is told by its name
 * and by nothing else; these records tell what has no name yet. They survive their writer, and the
 * machine; a writer that died has failed, which whoever looks next writes down. A failure is
 * forgotten when the name is published, begun again, or removed.
 */
enum smfs_pending_state { SMFS_PENDING_WRITING = 1, SMFS_PENDING_FAILED = 2 };
#define SMFS_PENDING_NAME   132
#define SMFS_PENDING_BY	    128
#define SMFS_PENDING_REASON 1024
struct smfs_pending {
	enum smfs_pending_state state;
	pid_t pid;			  /* that began it */
	int64_t began, ended;		  /* ns; `ended` 0: not written down yet */
	char name[SMFS_PENDING_NAME];	  /* of a snapshot */
	char by[SMFS_PENDING_BY];	  /* for people: what writes it */
	char reason[SMFS_PENDING_REASON]; /* of a failure */
};
/*
 * On disk when it returns. *fd holds the record: the snapshot is being written as long as any
 * process has this descriptor open, also one that was forked since, and also when the handle is
 * closed. EEXIST the name is taken; EBUSY somebody else is writing it, or a repair is at work.
 */
SMFS_API int smfs_pending_begin(struct smfs_store *s, const char *name, const char *by, int *fd,
				struct err *err);
/* Keep why it failed. Then close `fd`. Needs no store, and no room on a full one. */
SMFS_API int smfs_pending_fail(int fd, const char *reason, struct err *err);
/* The name is published, by a commit that returned 0. Then close `fd`. */
SMFS_API void smfs_pending_done(struct smfs_store *s, const char *name);
/* All there are, by name; the caller frees *out. */
SMFS_API int smfs_pending_list(struct smfs_store *s, struct smfs_pending **out, size_t *n,
			       struct err *err);
/* Forget a failure. ENOENT: there is none; EBUSY: it is being written. */
SMFS_API int smfs_pending_remove(struct smfs_store *s, const char *name, struct err *err);

struct smfs_usage {
	uint64_t logical_bytes; /* sum of file sizes */
	uint64_t data_bytes;	/* without holes */
	uint64_t stored_bytes;	/* its distinct frames and nodes in packs */
	uint64_t shared_bytes;	/* the part of stored_bytes other names also reach */
};
/* Walks the whole name (and, for shared_bytes, the store's other names). */
SMFS_API int smfs_name_usage(struct smfs_store *s, enum smfs_kind kind, const char *name,
			     struct smfs_usage *out, struct err *err);
/*
 * The same of `n` distinct names at once, and of all of them together: total->stored_bytes counts
 * what they share once, and total->shared_bytes is what names not among them reach, too. So stored
 * - shared is what removing that name (all of these names) would free. Costs one walk of each, and
 * 48 bytes a frame.
 */
SMFS_API int smfs_names_usage(struct smfs_store *s, const struct smfs_name *names, size_t n,
			      struct smfs_usage *each, struct smfs_usage *total, struct err *err);

/* ---- bundles: names as one stream of bytes ------------------------------------------------ */

struct smfs_bundle_stat {
	uint64_t names, frames;
	uint64_t raw_bytes;    /* of the frames, uncompressed */
	uint64_t stored_bytes; /* of the frames, as they are in packs and stream */
	uint64_t stream_bytes;
	uint64_t new_bytes; /* read: raw chunk bytes the store did not have */
};
/* Called about once a frame, by the calling thread; a negative result ends it, with *err filled. */
struct smfs_bundle_watch {
	int (*tick)(void *arg, const struct smfs_bundle_stat *so_far, struct err *err);
	void *arg;
};

/*
 * Write `names` and all they reach to `fd` (a pipe will do), but not what the `bases` reach: a
 * receiver has to have those. The frames are copied as they are stored. `watch` may be NULL.
 */
SMFS_API int smfs_bundle_write(struct smfs_store *s, const struct smfs_name *names, size_t n,
			       const struct smfs_name *bases, size_t nbases, int fd,
			       const struct smfs_bundle_watch *watch, struct smfs_bundle_stat *stat,
			       struct err *err);
/*
 * Read a bundle from `fd` to its end, check all of it, and publish its names; `as` (may be NULL)
 * names the only one. In memory: some MiB, and 100 bytes a frame. On error nothing is visible:
 *   EBADMSG damaged, cut short, or made to deceive    EEXIST a name is taken
 *   ENOENT  the store lacks a base: *err names it     EINVAL `as` for several names
 */
SMFS_API int smfs_bundle_read(struct smfs_store *s, int fd, const char *as,
			      const struct smfs_bundle_watch *watch, struct smfs_bundle_stat *stat,
			      struct err *err);

/* ---- journal ------------------------------------------------------------------------------ */

/*
 * Every change of names since the store was made, in order: the durable record that recovery
 * reads. `packs` counts the packs its commit appended to.
 */
enum smfs_log_op { SMFS_LOG_NONE = 0, SMFS_LOG_PUBLISH, SMFS_LOG_REMOVE, SMFS_LOG_RENAME };
struct smfs_log_entry {
	uint64_t seq;
	int64_t time; /* ns */
	size_t packs;
	enum smfs_log_op op;	      /* SMFS_LOG_NONE: a commit that changed no name */
	const struct smfs_name *name; /* as it is after, or was before its removal */
	const char *from;	      /* SMFS_LOG_RENAME: the old name */
};
/* A negative result of `fn` ends the walk and is returned. EBADMSG where the journal is damaged. */
typedef int (*smfs_log_fn)(const struct smfs_log_entry *e, void *arg, struct err *err);
SMFS_API int smfs_log(struct smfs_store *s, smfs_log_fn fn, void *arg, struct err *err);

/* ---- leases -------------------------------------------------------------------------------- */

/*
 * What a name leads to may be read as long as the name exists. What outlives names is leased, or
 * smfs_gc() of whatever process frees it:
 *   - an open handle keeps all that is there when it is opened, and later ingests' until they
 *     are removed; so a program that opens, reads and closes need do nothing. One that keeps a
 *     handle open long calls smfs_store_unpin(), as mounts do, and leases what it reads;
 *   - an ingest keeps all that was there when it began;
 *   - a leased root directory keeps everything below it.
 * Leases end with the process, however it ends.
 */
typedef uint32_t smfs_lease; /* 0 = none */
/* smfs_name_get() and a lease of its root in one: the name was there when the lease began. */
SMFS_API int smfs_lease_name(struct smfs_store *s, enum smfs_kind kind, const char *name,
			     struct smfs_name *out, smfs_lease *lease, struct err *err);
/* Of a root that something else protects now. */
SMFS_API int smfs_lease_root(struct smfs_store *s, const struct smfs_id *root, smfs_lease *lease,
			     struct err *err);
SMFS_API void smfs_lease_drop(struct smfs_store *s, smfs_lease lease); /* 0 is fine */
/* End the handle's own lease on all that was there when it was opened. */
SMFS_API void smfs_store_unpin(struct smfs_store *s);
/*
 * All leases of the handle hold as long as any process has this descriptor open: one that takes a
 * server's work over keeps it until the new server has leased anew. -1: there is none.
 */
SMFS_API int smfs_lease_fd(const struct smfs_store *s);
/*
 * For who holds leases longer than need be: a descriptor (inotify, not blocking) that becomes
 * readable when a collection asks to let go of what can be. The collection waits a short while for
 * smfs_lease_answer(). Closed by smfs_lease_unwatch().
 */
SMFS_API int smfs_lease_watch(struct smfs_store *s, struct err *err);
SMFS_API void smfs_lease_answer(struct smfs_store *s);
SMFS_API void smfs_lease_unwatch(struct smfs_store *s, int fd);

/* ---- garbage collection -------------------------------------------------------------------- */

#define SMFS_GC_DRY_RUN		1u /* count, change nothing */
#define SMFS_GC_COMPACT_DEFAULT 25
struct smfs_gc {
	/* In. Packs of which at least this per cent is dead are rewritten; above 100: none. */
	unsigned compact_percent;
	/* Asked often: true ends the collection early, the store is consistent at any time. */
	bool (*stop)(void *arg);
	void *arg;
	/* Out. Bytes are as stored in packs, headers included. */
	uint64_t names, leased_roots, holders; /* what the walk began with; handles with leases */
	uint64_t marked, mark_us;	       /* references followed, and the time it took */
	uint64_t live_frames, live_bytes;
	uint64_t condemned_frames, condemned_bytes; /* found unreachable, by this run */
	uint64_t freed_frames, freed_bytes;	    /* forgotten, by this run */
	uint64_t waiting_frames, waiting_bytes;	    /* kept for those that began before */
	uint64_t packs, packs_removed, packs_compacted, packs_busy;
	uint64_t packs_damaged; /* not rewritten: frames in them are needed and cannot be read */
	uint64_t copied_bytes;	    /* to other packs */
	uint64_t returned_bytes;    /* of disk, net of what was copied */
	uint64_t dead_bytes;	    /* left in packs that are mostly alive, busy or damaged */
	uint64_t longest_update_us; /* an index transaction: what a commit may have waited */
};
/*
 * Free what no name, no lease and no ingest needs. Any other process may go on reading, writing
 * and removing meanwhile. The handle's own lease ends and begins anew. -EBUSY: another collection,
 * or a check, is at work. -EBADMSG: a name is damaged, so that what is below it is not known;
 * nothing is freed. -EINTR: stopped.
 */
SMFS_API int smfs_gc(struct smfs_store *s, unsigned flags, struct smfs_gc *g, struct err *err);

/* ---- fsck --------------------------------------------------------------------------------- */

#define SMFS_FSCK_READ_DATA 1u /* decompress and rehash every frame, too */
struct smfs_fsck {
	uint64_t packs, frames, nodes, names, bad_frames, bad_names, garbage_frames;
	/* smfs_repair(): things put right, and things lost or decided without proof. */
	uint64_t repairs, guesses;
	uint64_t quarantined; /* noted as damaged; an ingest of the same content heals them */
	/* Grows while packs are read: for a progress line of another thread. */
	uint64_t done_bytes;
	/*
	 * One call per finding, such as "snapshot x: ram: bytes 65536-131071: frame ... bad
	 * checksum": where the damage is (pack, index, journal), and each name and range it hits.
	 * Frames that no name reaches and second copies are garbage, and no finding even when bad;
	 * nor are bytes of a pack that the index has no frame in.
	 */
	void (*report)(void *arg, const char *line);
	void *arg;
};
/*
 * 0 = clean; -EBADMSG = findings were reported. Changes nothing, but that frames found damaged are
 * noted: an ingest of the same content writes them anew and heals every name they belong to.
 */
SMFS_API int smfs_fsck(struct smfs_store *s, unsigned flags, struct smfs_fsck *f, struct err *err);

/*
 * Build the index anew from packs and journal, for a store that this process does not have open.
 * Nothing in a pack is ever deleted, nor what may be a pack: a frame is left out of the index
 * only if its checksum is wrong. What was put right, and what had to be decided without proof,
 * is reported. Runs beside readers; EBUSY if anybody writes. smfs_fsck() afterwards tells what
 * is left. The former index (and journal, if that had to be written anew) stay as
 * index.bad-<n>, journal.bad-<n> until smfs_repair_done() removes them.
 */
SMFS_API int smfs_repair(const char *dir, struct smfs_fsck *f, struct err *err);
SMFS_API int smfs_repair_done(const char *dir, struct err *err);

/* Lower-case hex into `out` (65 bytes). */
SMFS_API char *smfs_id_hex(const struct smfs_id *id, char *out);

#ifdef __cplusplus
}
#endif

#endif
