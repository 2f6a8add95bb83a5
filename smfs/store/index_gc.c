#include "smfs/store/index_gc.h"

#include "smfs/store/index_priv.h"

#include <endian.h>
#include <string.h>

#define CONDEMNED_LEN (LOC_LEN + 8 + RECORD_SUM_LEN)

struct condemned_key {
	uint8_t b[1 + SMFS_ID_LEN];
};

static struct condemned_key condemned_key(uint8_t kind, const struct smfs_id *id)
{
	struct condemned_key k = {.b = {kind == FRAME_CHUNK ? 1 : 2}};

	memcpy(k.b + 1, id->b, SMFS_ID_LEN);
	return k;
}

static MDB_val val(const void *p, size_t n)
{
	return (MDB_val){.mv_data = (void *)p, .mv_size = n};
}

static void condemned_encode(const struct condemned_key *key, const struct frame_loc *loc,
			     uint64_t gen, uint8_t out[CONDEMNED_LEN])
{
	uint64_t le = htole64(gen);

	index_put_loc(loc, out);
	memcpy(out + LOC_LEN, &le, 8);
	index_record_seal(key->b, sizeof(key->b), out, CONDEMNED_LEN);
}

static int condemned_decode(const MDB_val *k, const MDB_val *v, struct frame_loc *loc,
			    uint64_t *gen)
{
	struct reader r = reader_of(v->mv_data, v->mv_size);

	if (v->mv_size != CONDEMNED_LEN ||
	    !index_record_ok(k->mv_data, k->mv_size, v->mv_data, v->mv_size) ||
	    index_get_loc(&r, loc) < 0)
		return -EBADMSG;
	*gen = get_u64(&r);
	return 0;
}

/* 1 = found and decoded, 0 = not there. */
static int get_live(struct index *ix, MDB_txn *txn, uint8_t kind, const struct smfs_id *id,
		    struct frame_loc *loc, struct err *err)
{
	MDB_val k = val(id->b, SMFS_ID_LEN), v;
	int rc = mdb_get(txn, index_frame_dbi(ix, kind), &k, &v);

	if (rc == MDB_NOTFOUND)
		return 0;
	if (rc)
		return index_err(err, rc, "find frame");
	return index_frame_decode(&k, &v, loc) < 0 ? index_bad_record(err, "frames") : 1;
}

static int get_condemned(struct index *ix, MDB_txn *txn, uint8_t kind, const struct smfs_id *id,
			 struct frame_loc *loc, uint64_t *gen, struct err *err)
{
	struct condemned_key key = condemned_key(kind, id);
	MDB_val k = val(key.b, sizeof(key.b)), v;
	int rc = mdb_get(txn, ix->condemned, &k, &v);

	if (rc == MDB_NOTFOUND)
		return 0;
	if (rc)
		return index_err(err, rc, "find condemned frame");
	return condemned_decode(&k, &v, loc, gen) < 0 ? index_bad_record(err, "condemned") : 1;
}

static int find(struct index *ix, bool live, uint8_t kind, const struct smfs_id *id,
		struct frame_loc *out, struct err *err)
{
	uint64_t gen;
	MDB_txn *txn;
	int r = index_read_begin(ix, &txn, err);

	if (r < 0)
		return r;
	r = live ? get_live(ix, txn, kind, id, out, err) : 0;
	if (r == 0)
		r = get_condemned(ix, txn, kind, id, out, &gen, err);
	index_read_end(ix, txn);
	return r == 1 && out->kind != kind ? 0 : r;
}

int index_find_any(struct index *ix, uint8_t kind, const struct smfs_id *id, struct frame_loc *out,
		   struct err *err)
{
	return find(ix, true, kind, id, out, err);
}

int index_find_condemned(struct index *ix, uint8_t kind, const struct smfs_id *id,
			 struct frame_loc *out, struct err *err)
{
	return find(ix, false, kind, id, out, err);
}

/* ---- scanning ---- */

static int frame_at(enum index_db db, const MDB_val *k, const MDB_val *v, struct index_frame *f)
{
	size_t skip = db == INDEX_CONDEMNED ? 1 : 0;

	f->gen = 0;
	if (k->mv_size != skip + SMFS_ID_LEN)
		return -EBADMSG;
	memcpy(f->id.b, (const uint8_t *)k->mv_data + skip, SMFS_ID_LEN);
	return db == INDEX_CONDEMNED ? condemned_decode(k, v, &f->loc, &f->gen)
				     : index_frame_decode(k, v, &f->loc);
}

ssize_t index_scan(struct index *ix, enum index_db db, struct index_pos *pos,
		   struct index_frame *out, size_t max, struct err *err)
{
	const MDB_dbi dbi[] = {ix->chunks, ix->nodes, ix->condemned};
	MDB_cursor *cur;
	MDB_txn *txn;
	MDB_val k, v;
	size_t n = 0;
	int r = index_read_begin(ix, &txn, err);

	if (r < 0)
		return r;
	int rc = mdb_cursor_open(txn, dbi[db], &cur);
	if (rc == 0) {
		k = val(pos->key, pos->len);
		rc = mdb_cursor_get(cur, &k, &v, pos->len ? MDB_SET_RANGE : MDB_FIRST);
		/* The key left off at may be gone by now; what follows it is what comes next. */
		if (rc == 0 && pos->len && k.mv_size == pos->len &&
		    memcmp(k.mv_data, pos->key, pos->len) == 0)
			rc = mdb_cursor_get(cur, &k, &v, MDB_NEXT);
		for (; rc == 0 && n < max && r == 0; rc = mdb_cursor_get(cur, &k, &v, MDB_NEXT)) {
			if (frame_at(db, &k, &v, &out[n]) < 0) {
				r = index_bad_record(err, "frames");
				break;
			}
			memcpy(pos->key, k.mv_data, k.mv_size);
			pos->len = k.mv_size;
			n++;
		}
		mdb_cursor_close(cur);
	}
	if (r == 0 && rc != 0 && rc != MDB_NOTFOUND)
		r = index_err(err, rc, "list frames");
	index_read_end(ix, txn);
	return r < 0 ? r : (ssize_t)n;
}

/* ---- changes ---- */

static int put(struct index_txn *txn, MDB_dbi dbi, MDB_val k, MDB_val v, struct err *err)
{
	int rc = mdb_put(txn->txn, dbi, &k, &v, 0);

	return rc ? index_txn_err(txn, err, rc, "record frame") : 0;
}

static int del(struct index_txn *txn, MDB_dbi dbi, MDB_val k, struct err *err)
{
	int rc = mdb_del(txn->txn, dbi, &k, NULL);

	return rc && rc != MDB_NOTFOUND ? index_txn_err(txn, err, rc, "forget frame") : 0;
}

int index_txn_condemn(struct index_txn *txn, uint8_t kind, const struct smfs_id *id, uint64_t gen,
		      struct frame_loc *loc, struct err *err)
{
	struct condemned_key key = condemned_key(kind, id);
	uint8_t buf[CONDEMNED_LEN];
	int r = get_live(txn->ix, txn->txn, kind, id, loc, err);

	if (r <= 0)
		return r;
	condemned_encode(&key, loc, gen, buf);
	r = put(txn, txn->ix->condemned, val(key.b, sizeof(key.b)), val(buf, sizeof(buf)), err);
	if (r == 0)
		r = del(txn, index_frame_dbi(txn->ix, kind), val(id->b, SMFS_ID_LEN), err);
	return r < 0 ? r : 1;
}

int index_txn_revive(struct index_txn *txn, uint8_t kind, const struct smfs_id *id,
		     struct frame_loc *loc, struct err *err)
{
	struct condemned_key key = condemned_key(kind, id);
	uint8_t buf[FRAME_REC_LEN];
	uint64_t gen;
	int r = get_live(txn->ix, txn->txn, kind, id, loc, err);

	if (r != 0)
		return r;
	r = get_condemned(txn->ix, txn->txn, kind, id, loc, &gen, err);
	if (r <= 0)
		return r;
	index_frame_encode(id, loc, buf);
	r = put(txn, index_frame_dbi(txn->ix, kind), val(id->b, SMFS_ID_LEN),
		val(buf, FRAME_REC_LEN), err);
	if (r == 0)
		r = del(txn, txn->ix->condemned, val(key.b, sizeof(key.b)), err);
	return r < 0 ? r : 2;
}

int index_txn_expire(struct index_txn *txn, const struct index_frame *f, struct err *err)
{
	struct condemned_key key = condemned_key(f->loc.kind, &f->id);
	struct frame_loc loc;
	uint64_t gen = 0;
	int r = get_condemned(txn->ix, txn->txn, f->loc.kind, &f->id, &loc, &gen, err);

	if (r <= 0 || gen != f->gen)
		return r < 0 ? r : 0;
	r = del(txn, txn->ix->condemned, val(key.b, sizeof(key.b)), err);
	return r < 0 ? r : 1;
}

static bool same_place(const struct frame_loc *a, const struct frame_loc *b)
{
	return a->pack == b->pack && a->off == b->off && a->kind == b->kind;
}

int index_txn_move(struct index_txn *txn, const struct smfs_id *id, const struct frame_loc *from,
		   const struct frame_loc *to, struct err *err)
{
	struct condemned_key key = condemned_key(from->kind, id);
	uint8_t buf[CONDEMNED_LEN];
	struct frame_loc at = {0};
	uint64_t gen = 0;
	int moved = 0, r = get_live(txn->ix, txn->txn, from->kind, id, &at, err);

	if (r < 0)
		return r;
	if (r == 1 && same_place(&at, from)) {
		index_frame_encode(id, to, buf);
		r = put(txn, index_frame_dbi(txn->ix, from->kind), val(id->b, SMFS_ID_LEN),
			val(buf, FRAME_REC_LEN), err);
		if (r < 0)
			return r;
		moved = 1;
	}
	/* A frame may be in both: condemned, and then written anew. */
	r = get_condemned(txn->ix, txn->txn, from->kind, id, &at, &gen, err);
	if (r < 0)
		return r;
	if (r == 1 && same_place(&at, from)) {
		condemned_encode(&key, to, gen, buf);
		r = put(txn, txn->ix->condemned, val(key.b, sizeof(key.b)), val(buf, sizeof(buf)),
			err);
		if (r < 0)
			return r;
		moved = 1;
	}
	return moved;
}

int index_txn_del_pack(struct index_txn *txn, uint64_t pack, struct err *err)
{
	uint64_t key = htobe64(pack);

	return del(txn, txn->ix->packs, val(&key, sizeof(key)), err);
}
