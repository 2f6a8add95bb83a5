#include "smfs/store/format.h"

#include "smfs/base/hex.h"
#include "smfs/base/sha256.h"
#include "smfs/store/map.h"

#include <string.h>
#include <xxhash.h>
#include <zstd.h>

#define PACK_MAGIC  0x4b4341505346534dull /* "MSFSPACK" */
#define FRAME_MAGIC 0x4d524653u		  /* "SFRM" */

void pack_head_encode(const struct pack_head *h, uint8_t out[PACK_HEAD_LEN])
{
	memset(out, 0, PACK_HEAD_LEN);
	store_le64(out, PACK_MAGIC);
	store_le32(out + 8, STORE_VERSION);
	memcpy(out + 16, h->uuid, UUID_LEN);
	store_le64(out + 32, h->id);
	store_le64(out + 40, h->created);
	store_le64(out + 56, XXH3_64bits(out, 56));
}

int pack_head_decode(const uint8_t in[PACK_HEAD_LEN], struct pack_head *h)
{
	struct reader r = reader_of(in, PACK_HEAD_LEN);
	uint64_t magic = get_u64(&r);
	uint32_t version = get_u32(&r);

	get_u32(&r);
	get_bytes(&r, h->uuid, UUID_LEN);
	h->id = get_u64(&r);
	h->created = get_u64(&r);
	get_u64(&r);
	if (magic != PACK_MAGIC || get_u64(&r) != XXH3_64bits(in, 56))
		return -EBADMSG;
	return version == STORE_VERSION ? 0 : -ENOTSUP;
}

uint32_t frame_raw_max(uint8_t kind)
{
	switch (kind) {
	case FRAME_CHUNK:
		return FRAME_SIZE;
	case FRAME_MAP:
		return MAP_NODE_MAX;
	case FRAME_DIR:
		return DIR_BYTES_MAX;
	default:
		return 0;
	}
}

void frame_head_encode(struct frame_head *h, const void *payload, uint8_t out[FRAME_HEAD_LEN])
{
	memset(out, 0, FRAME_HEAD_LEN);
	store_le32(out, FRAME_MAGIC);
	out[4] = h->kind;
	out[5] = h->codec;
	store_le32(out + 8, h->raw_len);
	store_le32(out + 12, h->stored_len);
	memcpy(out + 16, h->id.b, SMFS_ID_LEN);
	h->head_sum = XXH3_64bits(out, 48);
	h->payload_sum = XXH3_64bits_withSeed(payload, h->stored_len, h->head_sum);
	store_le64(out + 48, h->head_sum);
	store_le64(out + 56, h->payload_sum);
}

int frame_head_decode(const uint8_t in[FRAME_HEAD_LEN], struct frame_head *h)
{
	struct reader r = reader_of(in, FRAME_HEAD_LEN);

	if (get_u32(&r) != FRAME_MAGIC)
		return -EBADMSG;
	h->kind = get_u8(&r);
	h->codec = get_u8(&r);
	get_u16(&r);
	h->raw_len = get_u32(&r);
	h->stored_len = get_u32(&r);
	get_bytes(&r, h->id.b, SMFS_ID_LEN);
	h->head_sum = get_u64(&r);
	h->payload_sum = get_u64(&r);
	if (h->head_sum != XXH3_64bits(in, 48))
		return -EBADMSG;
	if (!h->raw_len || h->raw_len > frame_raw_max(h->kind) || !h->stored_len)
		return -EBADMSG;
	/* A frame is kept compressed only when that is smaller. */
	switch (h->codec) {
	case CODEC_RAW:
		return h->stored_len == h->raw_len ? 0 : -EBADMSG;
	case CODEC_ZSTD:
		return h->stored_len < h->raw_len ? 0 : -EBADMSG;
	default:
		return -EBADMSG;
	}
}

bool frame_payload_ok(const struct frame_head *h, const void *payload)
{
	return XXH3_64bits_withSeed(payload, h->stored_len, h->head_sum) == h->payload_sum;
}

void frame_id(uint8_t kind, const void *raw, size_t len, struct smfs_id *out)
{
	/* Of one length, so no prefix continues another. */
	static const char map_prefix[16] = "smfs map node 1";
	static const char dir_prefix[16] = "smfs dir node 1";

	struct sha256 h;

	sha256_init(&h);
	if (kind != FRAME_CHUNK)
		sha256_update(&h, kind == FRAME_MAP ? map_prefix : dir_prefix, 16);
	sha256_update(&h, raw, len);
	sha256_final(&h, out->b);
}

void chunk_ids(struct sha256_msg *chunks, size_t n)
{
	sha256_many(chunks, n);
}

char *smfs_id_hex(const struct smfs_id *id, char *out)
{
	return hex_encode(id->b, SMFS_ID_LEN, out);
}

void content_put(struct writer *w, const struct smfs_content *c)
{
	put_u64(w, c->size);
	put_u8(w, c->kind);
	put_u8(w, c->depth);
	put_u16(w, 0);
	put_bytes(w, c->id.b, SMFS_ID_LEN);
}

static bool content_ok(const struct smfs_content *c)
{
	if (c->size > FILE_SIZE_MAX)
		return false;
	switch (c->kind) {
	case SMFS_ZERO:
		return c->depth == 0 && id_is_zero(&c->id);
	case SMFS_CHUNK:
		return c->depth == 0 && c->size > 0 && c->size <= FRAME_SIZE;
	case SMFS_MAP:
		return c->size > 0 && c->depth == map_depth(c->size);
	default:
		return false;
	}
}

int content_get(struct reader *r, struct smfs_content *c)
{
	*c = (struct smfs_content){0};
	c->size = get_u64(r);
	c->kind = get_u8(r);
	c->depth = get_u8(r);
	uint16_t pad = get_u16(r);
	get_bytes(r, c->id.b, SMFS_ID_LEN);
	return reader_ok(r) && pad == 0 && content_ok(c) ? 0 : -EBADMSG;
}

void smfs_content_encode(const struct smfs_content *c, uint8_t out[SMFS_CONTENT_LEN])
{
	memset(out, 0, SMFS_CONTENT_LEN);
	store_le64(out, c->size);
	out[8] = c->kind;
	out[9] = c->depth;
	memcpy(out + 12, c->id.b, SMFS_ID_LEN);
}

int smfs_content_decode(const void *buf, size_t len, struct smfs_content *out, struct err *err)
{
	struct reader r = reader_of(buf, len);

	if (len != SMFS_CONTENT_LEN || content_get(&r, out) < 0)
		return err_set(err, EBADMSG, "content reference of %zu bytes: does not parse", len);
	return 0;
}
