/* The records of the index's databases: encoding, lookup, iteration. */
#include "smfs/store/index.h"

#include "smfs/base/cleanup.h"
#include "smfs/store/index_priv.h"

#include <endian.h>
#include <string.h>
#include <xxhash.h>

#define META_LEN (56u + RECORD_SUM_LEN)
#define PACK_LEN (8u + RECORD_SUM_LEN)

static const char meta_key[] = "state";

static MDB_val val(const void *p, size_t n)
{
	return (MDB_val){.mv_data = (void *)p, .mv_size = n};
}

static uint32_t record_sum(const void *key, size_t klen, const void *value, size_t len)
{
	return (uint32_t)XXH3_64bits_withSeed(value, len, XXH3_64bits(key, klen));
}

void index_record_seal(const void *key, size_t klen, uint8_t *value, size_t len)
{
	uint32_t sum = htole32(record_sum(key, klen, value, len - RECORD_SUM_LEN));

	memcpy(value + len - RECORD_SUM_LEN, &sum, RECORD_SUM_LEN);
}

bool index_record_ok(const void *key, size_t klen, const void *value, size_t len)
{
	uint32_t sum;

	if (len < RECORD_SUM_LEN)
		return false;
	memcpy(&sum, (const uint8_t *)value + len - RECORD_SUM_LEN, RECORD_SUM_LEN);
	return le32toh(sum) == record_sum(key, klen, value, len - RECORD_SUM_LEN);
}

/* The record without its sum; one whose sum is wrong reads as empty, which no record is. */
static struct reader reader_rec(const MDB_val *k, const MDB_val *v)
{
	bool good = index_record_ok(k->mv_data, k->mv_size, v->mv_data, v->mv_size);

	return reader_of(v->mv_data, good ? v->mv_size - RECORD_SUM_LEN : 0);
}

MDB_dbi index_frame_dbi(struct index *ix, uint8_t kind)
{
	return kind == FRAME_CHUNK ? ix->chunks : ix->nodes;
}

/* ---- frames ---- */

void index_put_loc(const struct frame_loc *loc, uint8_t out[LOC_LEN])
{
	uint64_t q[2] = {htole64(loc->pack), htole64(loc->off)};
	uint32_t d[2] = {htole32(loc->stored_len), htole32(loc->raw_len)};

	memset(out, 0, LOC_LEN);
	memcpy(out, q, 16);
	memcpy(out + 16, d, 8);
	out[24] = loc->kind;
	out[25] = loc->codec;
}

int index_get_loc(struct reader *r, struct frame_loc *loc)
{
	loc->pack = get_u64(r);
	loc->off = get_u64(r);
	loc->stored_len = get_u32(r);
	loc->raw_len = get_u32(r);
	loc->kind = get_u8(r);
	loc->codec = get_u8(r);
	get_u16(r);
	if (!reader_ok(r) || loc->off % FRAME_ALIGN || loc->off > (uint64_t)INT64_MAX / 2 ||
	    loc->raw_len > frame_raw_max(loc->kind) || loc->stored_len > loc->raw_len)
		return -EBADMSG;
	return 0;
}

void index_frame_encode(const struct smfs_id *id, const struct frame_loc *loc,
			uint8_t out[FRAME_REC_LEN])
{
	index_put_loc(loc, out);
	index_record_seal(id->b, SMFS_ID_LEN, out, FRAME_REC_LEN);
}

int index_frame_decode(const MDB_val *k, const MDB_val *v, struct frame_loc *loc)
{
	struct reader r = reader_rec(k, v);

	return index_get_loc(&r, loc) < 0 || !reader_done(&r) ? -EBADMSG : 0;
}

int index_bad_record(struct err *err, const char *db)
{
	return err_set(err, EBADMSG, "store index: a record of %s does not parse", db);
}

int index_find(struct index *ix, uint8_t kind, const struct smfs_id *id, struct frame_loc *out,
	       struct err *err)
{
	MDB_val k = val(id->b, SMFS_ID_LEN), v;
	MDB_txn *txn;
	int r = index_read_begin(ix, &txn, err);

	if (r < 0)
		return r;
	int rc = mdb_get(txn, index_frame_dbi(ix, kind), &k, &v);
	if (rc == 0)
		r = index_frame_decode(&k, &v, out) < 0 ? index_bad_record(err, "frames") : 1;
	else if (rc != MDB_NOTFOUND)
		r = index_err(err, rc, "find frame");
	index_read_end(ix, txn);
	/* A map node is not a directory, though both are nodes. */
	return r == 1 && out->kind != kind ? 0 : r;
}

int index_find_prefix(struct index *ix, uint8_t kind, uint64_t prefix, unsigned bits,
		      struct smfs_id *id, struct frame_loc *out, struct err *err)
{
	uint64_t from = htobe64(bits < 64 ? prefix >> (64 - bits) << (64 - bits) : prefix), found;
	struct smfs_id least = {{0}};
	MDB_val k = val(least.b, SMFS_ID_LEN), v;
	MDB_cursor *c;
	MDB_txn *txn;
	int r = index_read_begin(ix, &txn, err);

	if (r < 0)
		return r;
	memcpy(least.b, &from, sizeof(from));
	int rc = mdb_cursor_open(txn, index_frame_dbi(ix, kind), &c);
	if (rc == 0) {
		rc = mdb_cursor_get(c, &k, &v, MDB_SET_RANGE);
		if (rc == 0 && k.mv_size == SMFS_ID_LEN) {
			memcpy(&found, k.mv_data, sizeof(found));
			if ((be64toh(found) ^ be64toh(from)) >> (64 - bits) == 0)
				r = index_frame_decode(&k, &v, out) < 0
					    ? index_bad_record(err, "frames")
					    : 1;
		}
		if (r == 1)
			memcpy(id->b, k.mv_data, SMFS_ID_LEN);
		mdb_cursor_close(c);
	}
	if (rc != 0 && rc != MDB_NOTFOUND)
		r = index_err(err, rc, "find frame");
	index_read_end(ix, txn);
	return r == 1 && out->kind != kind ? 0 : r;
}

int index_txn_add(struct index_txn *txn, const struct smfs_id *id, const struct frame_loc *loc,
		  struct err *err)
{
	uint8_t buf[FRAME_REC_LEN];
	MDB_val k = val(id->b, SMFS_ID_LEN), v = val(buf, sizeof(buf));

	index_frame_encode(id, loc, buf);
	int rc = mdb_put(txn->txn, index_frame_dbi(txn->ix, loc->kind), &k, &v, MDB_NOOVERWRITE);
	if (rc == MDB_KEYEXIST)
		return 0;
	return rc ? index_txn_err(txn, err, rc, "add frame") : 1;
}

int index_each_frame(struct index *ix, bool nodes, index_frame_fn fn, void *arg, struct err *err)
{
	MDB_cursor *cur;
	MDB_txn *txn;
	MDB_val k, v;
	int r = index_read_begin(ix, &txn, err);

	if (r < 0)
		return r;
	int rc = mdb_cursor_open(txn, nodes ? ix->nodes : ix->chunks, &cur);
	if (rc == 0) {
		while (r >= 0 && (rc = mdb_cursor_get(cur, &k, &v, MDB_NEXT)) == 0) {
			struct frame_loc loc;
			struct smfs_id id;

			if (k.mv_size != SMFS_ID_LEN || index_frame_decode(&k, &v, &loc) < 0) {
				r = index_bad_record(err, "frames");
				break;
			}
			memcpy(id.b, k.mv_data, SMFS_ID_LEN);
			r = fn(&id, &loc, arg, err);
		}
		mdb_cursor_close(cur);
	}
	if (r >= 0 && rc != 0 && rc != MDB_NOTFOUND)
		r = index_err(err, rc, "list frames");
	index_read_end(ix, txn);
	return r < 0 ? r : 0;
}

int index_counts(struct index *ix, uint64_t *chunks, uint64_t *nodes, struct err *err)
{
	MDB_stat st;
	MDB_txn *txn;
	int r = index_read_begin(ix, &txn, err);

	if (r < 0)
		return r;
	int rc = mdb_stat(txn, ix->chunks, &st);
	*chunks = st.ms_entries;
	if (rc == 0)
		rc = mdb_stat(txn, ix->nodes, &st);
	*nodes = st.ms_entries;
	index_read_end(ix, txn);
	return rc ? index_err(err, rc, "count") : 0;
}

/* ---- packs ---- */

int index_txn_set_pack(struct index_txn *txn, uint64_t pack, uint64_t len, struct err *err)
{
	uint64_t key = htobe64(pack), le = htole64(len);
	uint8_t buf[PACK_LEN];
	MDB_val k = val(&key, sizeof(key)), v = val(buf, sizeof(buf));

	memcpy(buf, &le, sizeof(le));
	index_record_seal(&key, sizeof(key), buf, sizeof(buf));
	int rc = mdb_put(txn->txn, txn->ix->packs, &k, &v, 0);

	return rc ? index_txn_err(txn, err, rc, "record pack") : 0;
}

static int pack_decode(const MDB_val *k, const MDB_val *v, uint64_t *len)
{
	struct reader r = reader_rec(k, v);

	*len = get_u64(&r);
	return reader_done(&r) && *len >= PACK_HEAD_LEN && *len <= INT64_MAX ? 0 : -EBADMSG;
}

int index_pack_len(struct index *ix, uint64_t pack, uint64_t *len, struct err *err)
{
	uint64_t key = htobe64(pack);
	MDB_val k = val(&key, sizeof(key)), v;
	MDB_txn *txn;
	int r = index_read_begin(ix, &txn, err);

	if (r < 0)
		return r;
	int rc = mdb_get(txn, ix->packs, &k, &v);
	if (rc == 0)
		r = pack_decode(&k, &v, len) < 0 ? index_bad_record(err, "packs") : 1;
	else if (rc != MDB_NOTFOUND)
		r = index_err(err, rc, "find pack");
	index_read_end(ix, txn);
	return r;
}

int index_packs(struct index *ix, struct index_pack **out, size_t *n, struct err *err)
{
	cleanup_free struct index_pack *v = NULL;
	size_t count = 0, cap = 0;
	MDB_cursor *cur;
	MDB_txn *txn;
	MDB_val mk, mv;
	int r = index_read_begin(ix, &txn, err);

	if (r < 0)
		return r;
	int rc = mdb_cursor_open(txn, ix->packs, &cur);
	if (rc == 0) {
		while (r == 0 && (rc = mdb_cursor_get(cur, &mk, &mv, MDB_NEXT)) == 0) {
			if (count == cap) {
				cap = cap ? cap * 2 : 16;
				void *p = reallocarray(v, cap, sizeof(*v));
				if (!p) {
					r = err_set(err, ENOMEM, "list packs: out of memory");
					break;
				}
				v = p;
			}
			struct reader kr = reader_of(mk.mv_data, mk.mv_size);
			if (mk.mv_size != 8 || pack_decode(&mk, &mv, &v[count].len) < 0) {
				r = index_bad_record(err, "packs");
				break;
			}
			v[count++].id = be64toh(htole64(get_u64(&kr)));
		}
		mdb_cursor_close(cur);
	}
	if (r == 0 && rc != 0 && rc != MDB_NOTFOUND)
		r = index_err(err, rc, "list packs");
	index_read_end(ix, txn);
	if (r == 0) {
		*out = steal_ptr(&v);
		*n = count;
	}
	return r;
}

/* ---- meta ---- */

static int meta_decode(const MDB_val *k, const MDB_val *v, struct index_meta *m)
{
	struct reader r = reader_rec(k, v);

	m->seq = get_u64(&r);
	m->journal_len = get_u64(&r);
	m->chunk_raw = get_u64(&r);
	m->chunk_stored = get_u64(&r);
	m->node_stored = get_u64(&r);
	m->gc_gen = get_u64(&r);
	m->gc_busy = get_u64(&r);
	return reader_done(&r) ? 0 : -EBADMSG;
}

static int meta_get(MDB_txn *txn, MDB_dbi dbi, struct index_meta *m, struct err *err)
{
	MDB_val k = val(meta_key, sizeof(meta_key) - 1), v;
	int rc = mdb_get(txn, dbi, &k, &v);

	*m = (struct index_meta){0};
	if (rc == MDB_NOTFOUND)
		return 0;
	if (rc)
		return index_err(err, rc, "read state");
	return meta_decode(&k, &v, m) < 0 ? index_bad_record(err, "meta") : 0;
}

int index_meta_decode(const void *key, size_t klen, const void *value, size_t len,
		      struct index_meta *out)
{
	MDB_val k = val(key, klen), v = val(value, len);

	if (klen != sizeof(meta_key) - 1 || memcmp(key, meta_key, klen) != 0)
		return -EBADMSG;
	return meta_decode(&k, &v, out);
}

int index_meta(struct index *ix, struct index_meta *out, struct err *err)
{
	MDB_txn *txn;
	int r = index_read_begin(ix, &txn, err);

	if (r < 0)
		return r;
	r = meta_get(txn, ix->meta, out, err);
	index_read_end(ix, txn);
	return r;
}

int index_txn_meta(struct index_txn *txn, struct index_meta *out, struct err *err)
{
	return meta_get(txn->txn, txn->ix->meta, out, err);
}

int index_txn_set_meta(struct index_txn *txn, const struct index_meta *m, struct err *err)
{
	uint64_t q[] = {htole64(m->seq),	  htole64(m->journal_len), htole64(m->chunk_raw),
			htole64(m->chunk_stored), htole64(m->node_stored), htole64(m->gc_gen),
			htole64(m->gc_busy)};
	uint8_t buf[META_LEN];
	MDB_val k = val(meta_key, sizeof(meta_key) - 1), v = val(buf, sizeof(buf));

	memcpy(buf, q, sizeof(q));
	index_record_seal(k.mv_data, k.mv_size, buf, sizeof(buf));
	int rc = mdb_put(txn->txn, txn->ix->meta, &k, &v, 0);

	return rc ? index_txn_err(txn, err, rc, "write state") : 0;
}

/* ---- names ---- */

struct name_key {
	uint8_t b[1 + SMFS_REF_MAX];
	size_t len;
};

static int name_key(struct name_key *k, enum smfs_kind kind, const char *name)
{
	size_t n = strnlen(name, SMFS_REF_MAX + 1);

	if (n > SMFS_REF_MAX)
		return -ENAMETOOLONG;
	k->b[0] = kind;
	memcpy(k->b + 1, name, n);
	k->len = 1 + n;
	return 0;
}

static int name_decode(const MDB_val *k, const MDB_val *v, struct smfs_name *out)
{
	struct reader r = reader_rec(k, v);

	memset(out, 0, sizeof(*out));
	if (k->mv_size < 2 || k->mv_size > 1 + SMFS_REF_MAX)
		return -EBADMSG;
	out->kind = ((const uint8_t *)k->mv_data)[0];
	memcpy(out->name, (const char *)k->mv_data + 1, k->mv_size - 1);
	/* Who lists goes on after the name: one that is shorter than its key would come for ever. */
	if (strlen(out->name) != k->mv_size - 1)
		return -EBADMSG;
	get_bytes(&r, out->root.b, SMFS_ID_LEN);
	out->created = (int64_t)get_u64(&r);
	out->seq = get_u64(&r);
	out->logical_bytes = get_u64(&r);
	out->mode = get_u32(&r);
	out->uid = get_u32(&r);
	out->gid = get_u32(&r);
	get_u32(&r);
	out->mtime = (int64_t)get_u64(&r);
	return reader_done(&r) && smfs_name_check(out->kind, out->name, NULL) == 0 ? 0 : -EBADMSG;
}

int index_name_decode(const void *key, size_t klen, const void *value, size_t len,
		      struct smfs_name *out)
{
	MDB_val k = val(key, klen), v = val(value, len);

	return name_decode(&k, &v, out);
}

static int name_get(MDB_txn *txn, MDB_dbi dbi, enum smfs_kind kind, const char *name,
		    struct smfs_name *out, struct err *err)
{
	struct name_key key;

	if (name_key(&key, kind, name) < 0)
		return 0;
	MDB_val k = val(key.b, key.len), v;
	int rc = mdb_get(txn, dbi, &k, &v);
	if (rc == MDB_NOTFOUND)
		return 0;
	if (rc)
		return index_err(err, rc, "find name");
	return name_decode(&k, &v, out) < 0 ? index_bad_record(err, "names") : 1;
}

int index_name(struct index *ix, enum smfs_kind kind, const char *name, struct smfs_name *out,
	       struct err *err)
{
	MDB_txn *txn;
	int r = index_read_begin(ix, &txn, err);

	if (r < 0)
		return r;
	r = name_get(txn, ix->names, kind, name, out, err);
	index_read_end(ix, txn);
	return r;
}

int index_txn_name(struct index_txn *txn, enum smfs_kind kind, const char *name,
		   struct smfs_name *out, struct err *err)
{
	return name_get(txn->txn, txn->ix->names, kind, name, out, err);
}

ssize_t index_names(struct index *ix, enum smfs_kind kind, const char *after, struct smfs_name *out,
		    size_t max, struct err *err)
{
	struct name_key key;
	MDB_cursor *cur;
	MDB_txn *txn;
	size_t n = 0;
	int r;

	if (name_key(&key, kind, after ? after : "") < 0)
		return err_set(err, ENAMETOOLONG, "list names: longer than %d bytes", SMFS_REF_MAX);
	r = index_read_begin(ix, &txn, err);
	if (r < 0)
		return r;
	int rc = mdb_cursor_open(txn, ix->names, &cur);
	if (rc == 0) {
		MDB_val k = val(key.b, key.len), v;

		for (rc = mdb_cursor_get(cur, &k, &v, MDB_SET_RANGE); rc == 0 && n < max;
		     rc = mdb_cursor_get(cur, &k, &v, MDB_NEXT)) {
			if (k.mv_size == 0 || ((uint8_t *)k.mv_data)[0] != kind)
				break;
			if (k.mv_size == key.len && memcmp(k.mv_data, key.b, key.len) == 0)
				continue;
			if (name_decode(&k, &v, &out[n]) < 0) {
				r = index_bad_record(err, "names");
				break;
			}
			n++;
		}
		mdb_cursor_close(cur);
	}
	if (r == 0 && rc != 0 && rc != MDB_NOTFOUND)
		r = index_err(err, rc, "list names");
	index_read_end(ix, txn);
	return r < 0 ? r : (ssize_t)n;
}

int index_txn_set_name(struct index_txn *txn, const struct smfs_name *name, struct err *err)
{
	cleanup_writer struct writer w = WRITER_INIT;
	struct name_key key;

	if (name_key(&key, name->kind, name->name) < 0)
		return err_set(err, ENAMETOOLONG, "name longer than %d bytes", SMFS_REF_MAX);
	put_bytes(&w, name->root.b, SMFS_ID_LEN);
	put_u64(&w, name->created);
	put_u64(&w, name->seq);
	put_u64(&w, name->logical_bytes);
	put_u32(&w, name->mode);
	put_u32(&w, name->uid);
	put_u32(&w, name->gid);
	put_u32(&w, 0);
	put_u64(&w, name->mtime);
	put_u32(&w, 0);
	if (w.failed)
		return err_set(err, ENOMEM, "store name: out of memory");
	index_record_seal(key.b, key.len, w.p, w.len);
	MDB_val k = val(key.b, key.len), v = val(w.p, w.len);
	int rc = mdb_put(txn->txn, txn->ix->names, &k, &v, 0);
	return rc ? index_txn_err(txn, err, rc, "store name") : 0;
}

int index_txn_del_name(struct index_txn *txn, enum smfs_kind kind, const char *name,
		       struct err *err)
{
	struct name_key key;

	if (name_key(&key, kind, name) < 0)
		return err_set(err, ENOENT, "%s: no such name", name);
	MDB_val k = val(key.b, key.len);
	int rc = mdb_del(txn->txn, txn->ix->names, &k, NULL);
	if (rc == MDB_NOTFOUND)
		return err_set(err, ENOENT, "%s: no such name", name);
	return rc ? index_txn_err(txn, err, rc, "remove name") : 0;
}
