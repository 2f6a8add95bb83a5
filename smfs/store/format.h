/*
 * format.h - the constants and records of the on-disk format, in one place.
 *
 * doc/store-format.md is the prose of this file. Everything is little-endian. Every reader here
 * treats its input as hostile: a record that does not parse is -EBADMSG, never undefined.
 */
#ifndef SMFS_STORE_FORMAT_H
#define SMFS_STORE_FORMAT_H

#include <stddef.h>
#include <stdint.h>

#include "smfs/base/bytes.h"
#include "smfs/base/num.h"
#include "smfs/store/store.h"

#define STORE_VERSION 1
#define UUID_LEN      16

/* A chunk holds at most this much of a file. */
#define FRAME_SIZE 65536u
/* What one leaf of a map covers of its file, and how many children an inner node has. */
#define LEAF_SPAN     (16 * MIB)
#define LEAF_MAX      16384u /* entries */
#define LEAF_CUTS     8192u  /* above this many chunks in one span, cuts are ignored */
#define INNER_FANOUT  256u
#define MAP_DEPTH_MAX 4
#define FILE_SIZE_MAX ((uint64_t)1 << 56) /* LEAF_SPAN * INNER_FANOUT ^ MAP_DEPTH_MAX */

#define DIR_ENTRIES_MAX (1u << 20)
#define DIR_BYTES_MAX	(128 * MIB)
#define DIR_DEPTH_MAX	4096 /* nesting a walk follows before it calls the tree hostile */

/* ---- packs ---- */

#define PACK_HEAD_LEN 64u
#define PACK_MAX      GIB /* an ingest starts another pack above this */

struct pack_head {
	uint8_t uuid[UUID_LEN]; /* of the store */
	uint64_t id;
	uint64_t created; /* ns */
};
void pack_head_encode(const struct pack_head *h, uint8_t out[PACK_HEAD_LEN]);
int pack_head_decode(const uint8_t in[PACK_HEAD_LEN], struct pack_head *h);

#define FRAME_HEAD_LEN	64u
#define FRAME_PROOF_LEN 56u /* of a header: all that its own sum covers, and the sum */
#define FRAME_ALIGN	8u

enum frame_kind { FRAME_CHUNK = 1, FRAME_MAP = 2, FRAME_DIR = 3 };
enum frame_codec { CODEC_RAW = 0, CODEC_ZSTD = 1 };

struct frame_head {
	uint8_t kind, codec;
	uint32_t raw_len, stored_len;
	struct smfs_id id;
	uint64_t head_sum;    /* XXH3-64 of the fields above as encoded */
	uint64_t payload_sum; /* XXH3-64 of the payload, seeded with head_sum */
};
/* Computes both checksums. */
void frame_head_encode(struct frame_head *h, const void *payload, uint8_t out[FRAME_HEAD_LEN]);
/* Checks magic, head_sum and every limit. The payload stays to be checked. */
int frame_head_decode(const uint8_t in[FRAME_HEAD_LEN], struct frame_head *h);
bool frame_payload_ok(const struct frame_head *h, const void *payload);

/* The largest raw length of a frame of this kind; 0 for an unknown kind. */
uint32_t frame_raw_max(uint8_t kind);

/* What a frame takes in its pack, header and padding included. */
static inline uint64_t frame_disk_len(uint32_t stored_len)
{
	return align_up(FRAME_HEAD_LEN + (uint64_t)stored_len, FRAME_ALIGN);
}

/*
 * The identity of a frame's raw bytes: of a chunk SHA-256 of its bytes, of a node SHA-256 of a
 * prefix naming its type and its bytes.
 */
void frame_id(uint8_t kind, const void *raw, size_t len, struct smfs_id *out);
/* Those of several chunks, faster than one by one. */
struct sha256_msg;
void chunk_ids(struct sha256_msg *chunks, size_t n);

/* ---- content references ---- */

#define CONTENT_LEN 44u
void content_put(struct writer *w, const struct smfs_content *c);
/* Also checks that size, kind and depth agree. */
int content_get(struct reader *r, struct smfs_content *c);

static inline bool id_equal(const struct smfs_id *a, const struct smfs_id *b)
{
	return __builtin_memcmp(a->b, b->b, SMFS_ID_LEN) == 0;
}

static inline bool id_is_zero(const struct smfs_id *id)
{
	static const struct smfs_id zero;

	return id_equal(id, &zero);
}

/* Ids are hashes: any part of one is a good hash. */
static inline uint64_t id_hash(const struct smfs_id *id)
{
	uint64_t v;

	__builtin_memcpy(&v, id->b, sizeof(v));
	return v;
}

#endif
