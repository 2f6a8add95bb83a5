/*
 * bundle.h - names as one stream of bytes, from store to store: the records, for the writer
 * (bundle_write.c) and the reader (bundle_read.c). Byte for byte: doc/bundle-format.md.
 *
 *     head        what follows, and a checksum of it
 *     table       the bases the receiver must have, the names it will get
 *     frames      as they are in packs, each once, children before parents
 *     trailer     counts, length, and the SHA-256 of everything before
 *
 * CHILDREN FIRST, so that a reader can prove at each node's arrival that all it refers to is
 * there, by one lookup a reference and with nothing kept for later: when a name's root has
 * arrived, so has all below it. The writer needs no second pass for it either: it emits a node when
 * it leaves it.
 *
 * Nothing in a stream is trusted: every length has a limit, every frame is decompressed and
 * rehashed, every node parsed and its references and sums checked, and all of it is one ingest:
 * visible at its end or not at all.
 */
#ifndef SMFS_STORE_BUNDLE_H
#define SMFS_STORE_BUNDLE_H

#include "smfs/store/store_priv.h"

#define BUNDLE_VERSION	 1
#define BUNDLE_HEAD_LEN	 64u
#define BUNDLE_TAIL_LEN	 72u
#define BUNDLE_NAMES_MAX 4096u	   /* names, and bases */
#define BUNDLE_TABLE_MAX (4 * MIB) /* 8,192 records of the longest names take 3.7 MiB */

struct bundle_head {
	uint32_t nnames, nbases;
	uint64_t table_len;
	uint64_t logical; /* bytes of the names' files, for who waits */
	uint64_t table_sum;
};
void bundle_head_encode(const struct bundle_head *h, uint8_t out[BUNDLE_HEAD_LEN]);
/* -ENOTSUP for a newer version, -EBADMSG for anything else that is not a head. */
int bundle_head_decode(const uint8_t in[BUNDLE_HEAD_LEN], struct bundle_head *h);

/* A base has kind, name and root only. */
void bundle_base_put(struct writer *w, const struct smfs_name *n);
void bundle_name_put(struct writer *w, const struct smfs_name *n);
int bundle_base_get(struct reader *r, struct smfs_name *n);
int bundle_name_get(struct reader *r, struct smfs_name *n);

struct bundle_tail {
	uint64_t frames, raw, stored; /* stored: with headers and padding */
	uint64_t length;	      /* of everything before the trailer */
	uint8_t digest[SMFS_ID_LEN];
};
/* The first four bytes tell a trailer from a frame. */
bool bundle_is_tail(const uint8_t head[4]);
void bundle_tail_encode(const struct bundle_tail *t, uint8_t out[BUNDLE_TAIL_LEN]);
int bundle_tail_decode(const uint8_t in[BUNDLE_TAIL_LEN], struct bundle_tail *t);

#endif
