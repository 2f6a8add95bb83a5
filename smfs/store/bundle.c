/* The records of a bundle. */
#include "smfs/store/bundle.h"

#include <errno.h>
#include <string.h>
#include <xxhash.h>

#define HEAD_MAGIC 0x4c444e4253464d53ull /* "SMFSBNDL" */
#define TAIL_MAGIC 0x444e4553u		 /* "SEND" */

void bundle_head_encode(const struct bundle_head *h, uint8_t out[BUNDLE_HEAD_LEN])
{
	memset(out, 0, BUNDLE_HEAD_LEN);
	store_le64(out, HEAD_MAGIC);
	store_le32(out + 8, BUNDLE_VERSION);
	store_le32(out + 12, h->nnames);
	store_le32(out + 16, h->nbases);
	store_le64(out + 24, h->table_len);
	store_le64(out + 32, h->logical);
	store_le64(out + 48, h->table_sum);
	store_le64(out + 56, XXH3_64bits(out, 56));
}

int bundle_head_decode(const uint8_t in[BUNDLE_HEAD_LEN], struct bundle_head *h)
{
	struct reader r = reader_of(in, BUNDLE_HEAD_LEN);
	uint64_t magic = get_u64(&r);
	uint32_t version = get_u32(&r);

	h->nnames = get_u32(&r);
	h->nbases = get_u32(&r);
	uint32_t zero = get_u32(&r);
	h->table_len = get_u64(&r);
	h->logical = get_u64(&r);
	uint64_t zeros = get_u64(&r);
	h->table_sum = get_u64(&r);
	if (magic != HEAD_MAGIC || get_u64(&r) != XXH3_64bits(in, 56))
		return -EBADMSG;
	if (version != BUNDLE_VERSION)
		return -ENOTSUP;
	if (zero || zeros || !h->nnames || h->nnames > BUNDLE_NAMES_MAX ||
	    h->nbases > BUNDLE_NAMES_MAX || h->table_len > BUNDLE_TABLE_MAX || h->table_len % 8)
		return -EBADMSG;
	return 0;
}

void bundle_base_put(struct writer *w, const struct smfs_name *n)
{
	put_u8(w, (uint8_t)n->kind);
	put_blob16(w, n->name, strlen(n->name));
	put_bytes(w, n->root.b, SMFS_ID_LEN);
}

void bundle_name_put(struct writer *w, const struct smfs_name *n)
{
	bundle_base_put(w, n);
	put_u32(w, n->mode);
	put_u32(w, n->uid);
	put_u32(w, n->gid);
	put_u64(w, (uint64_t)n->mtime);
}

int bundle_base_get(struct reader *r, struct smfs_name *n)
{
	size_t len;

	*n = (struct smfs_name){.kind = get_u8(r)};
	const void *name = get_blob16(r, SMFS_REF_MAX, &len);
	if (!name || memchr(name, 0, len))
		return -EBADMSG;
	memcpy(n->name, name, len);
	get_bytes(r, n->root.b, SMFS_ID_LEN);
	return reader_ok(r) && smfs_name_check(n->kind, n->name, NULL) == 0 ? 0 : -EBADMSG;
}

int bundle_name_get(struct reader *r, struct smfs_name *n)
{
	if (bundle_base_get(r, n) < 0)
		return -EBADMSG;
	n->mode = get_u32(r);
	n->uid = get_u32(r);
	n->gid = get_u32(r);
	n->mtime = (int64_t)get_u64(r);
	return reader_ok(r) && n->mode <= 07777 ? 0 : -EBADMSG;
}

bool bundle_is_tail(const uint8_t head[4])
{
	uint32_t v;

	memcpy(&v, head, sizeof(v));
	return le32toh(v) == TAIL_MAGIC;
}

void bundle_tail_encode(const struct bundle_tail *t, uint8_t out[BUNDLE_TAIL_LEN])
{
	memset(out, 0, BUNDLE_TAIL_LEN);
	store_le32(out, TAIL_MAGIC);
	store_le64(out + 8, t->frames);
	store_le64(out + 16, t->raw);
	store_le64(out + 24, t->stored);
	store_le64(out + 32, t->length);
	memcpy(out + 40, t->digest, SMFS_ID_LEN);
}

int bundle_tail_decode(const uint8_t in[BUNDLE_TAIL_LEN], struct bundle_tail *t)
{
	struct reader r = reader_of(in, BUNDLE_TAIL_LEN);
	uint32_t magic = get_u32(&r), zero = get_u32(&r);

	t->frames = get_u64(&r);
	t->raw = get_u64(&r);
	t->stored = get_u64(&r);
	t->length = get_u64(&r);
	get_bytes(&r, t->digest, SMFS_ID_LEN);
	return magic == TAIL_MAGIC && zero == 0 ? 0 : -EBADMSG;
}
