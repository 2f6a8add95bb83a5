/*
 * The records of the index. The input is a record: a byte that chooses the database, a length, the
 * key and the value, which is put there by LMDB itself with the right sum; then everything that
 * reads records is called. None may return what its callers do not expect.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "smfs/store/index_priv.h"
#include "tests/fuzz/fuzz_dir.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

#define KEY_MAX	  511u /* LMDB's */
#define VALUE_MAX 4096u

static struct index *ix;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct err err = ERR_INIT;

	fuzz_dir_make();
	if (index_create(dir, &err) < 0 || index_open(dir, false, &ix, &err) < 0) {
		fprintf(stderr, "%s\n", err.msg);
		abort();
	}
	mdb_env_set_flags(ix->env, MDB_NOSYNC, 1);
	return 0;
}

struct record {
	MDB_dbi dbi;
	MDB_val key, value;
};

static void put(const struct record *rec, bool there)
{
	MDB_val value = rec->value, key = rec->key;
	MDB_txn *txn;

	must(mdb_txn_begin(ix->env, NULL, 0, &txn) == 0);
	if (there)
		must(mdb_put(txn, rec->dbi, &key, &value, 0) == 0);
	else
		must(mdb_del(txn, rec->dbi, &key, NULL) == 0);
	must(mdb_txn_commit(txn) == 0);
}

static int frame(const struct smfs_id *id, const struct frame_loc *loc, void *arg, struct err *err)
{
	must(loc->raw_len <= frame_raw_max(loc->kind) && loc->stored_len <= loc->raw_len &&
	     loc->off % FRAME_ALIGN == 0);
	return 0;
}

static void read_all(const struct record *rec)
{
	struct smfs_name *names = malloc(4 * sizeof(*names));
	struct index_pack *packs = NULL;
	struct index_meta meta;
	struct frame_loc loc;
	struct smfs_id id = {{0}};
	uint64_t a, b;
	size_t n;

	must(names);
	memcpy(id.b, rec->key.mv_data, MIN(rec->key.mv_size, sizeof(id.b)));
	for (uint8_t kind = FRAME_CHUNK; kind <= FRAME_DIR; kind++)
		if (index_find(ix, kind, &id, &loc, NULL) == 1)
			must(loc.kind == kind);
	index_each_frame(ix, false, frame, NULL, NULL);
	index_each_frame(ix, true, frame, NULL, NULL);
	must(index_counts(ix, &a, &b, NULL) == 0);
	index_meta(ix, &meta, NULL);
	if (index_packs(ix, &packs, &n, NULL) == 0)
		for (size_t i = 0; i < n; i++) {
			must(packs[i].len >= PACK_HEAD_LEN);
			must(index_pack_len(ix, packs[i].id, &a, NULL) == 1 && a == packs[i].len);
		}
	free(packs);
	for (int kind = 0; kind < 5; kind++) {
		ssize_t got = index_names(ix, kind, NULL, names, 4, NULL);

		for (ssize_t i = 0; i < got; i++) {
			must(smfs_name_check(names[i].kind, names[i].name, NULL) == 0);
			must(index_name(ix, names[i].kind, names[i].name, &names[3], NULL) == 1);
		}
	}
	free(names);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const MDB_dbi dbis[] = {ix->chunks, ix->nodes, ix->names, ix->packs, ix->meta};
	uint8_t key[KEY_MAX], value[VALUE_MAX];
	struct record rec = {.key.mv_data = key, .value.mv_data = value};

	if (size < 4 || size - 3 > VALUE_MAX - RECORD_SUM_LEN)
		return 0;
	rec.dbi = dbis[data[0] % ARRAY_SIZE(dbis)];
	rec.key.mv_size = 1 + MIN((size_t)(data[1] | data[2] << 8), MIN(size - 4, KEY_MAX - 1));
	memcpy(key, data + 3, rec.key.mv_size);
	size_t len = size - 3 - rec.key.mv_size;
	memcpy(value, data + 3 + rec.key.mv_size, len);
	/* once as it is, once sealed */
	for (int sealed = 0; sealed < 2; sealed++) {
		rec.value.mv_size = len;
		if (sealed) {
			rec.value.mv_size += RECORD_SUM_LEN;
			index_record_seal(key, rec.key.mv_size, value, rec.value.mv_size);
		}
		put(&rec, true);
		read_all(&rec);
		put(&rec, false);
	}
	return 0;
}
