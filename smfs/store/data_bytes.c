#include "smfs/store/data_bytes.h"

#include <string.h>
#include <sys/stat.h>

static int remember(struct idset *set, uint8_t kind, const struct smfs_id *id, uint64_t value,
		    struct err *err)
{
	bool fresh;
	struct idset_entry *e = idset_add(set, kind, id, &fresh);

	if (!e)
		return err_set(err, ENOMEM, "measure data: out of memory");
	e->value = value;
	return 0;
}

static int file_data(struct smfs_store *s, struct data_memo *memo, const struct smfs_content *c,
		     uint64_t *out, struct err *err)
{
	struct smfs_id key = c->id;
	uint64_t stored, tail;
	struct smfs_file *f;

	if (c->kind != SMFS_MAP) {
		*out = c->kind == SMFS_CHUNK ? c->size : 0;
		return 0;
	}
	/* One map may be of files of two sizes. */
	memcpy(&tail, key.b + SMFS_ID_LEN - 8, 8);
	tail ^= c->size;
	memcpy(key.b + SMFS_ID_LEN - 8, &tail, 8);
	const struct idset_entry *e = idset_find(&memo->files, FRAME_MAP, &key);
	if (e) {
		*out = e->value;
		return 0;
	}
	int r = smfs_file_open(s, c, &f, err);
	if (r < 0)
		return r;
	r = smfs_file_usage(f, out, &stored, err);
	smfs_file_close(f);
	return r < 0 ? r : remember(&memo->files, FRAME_MAP, &key, *out, err);
}

static int dir_data(struct smfs_store *s, struct data_memo *memo, const struct smfs_id *id,
		    unsigned depth, uint64_t *out, struct err *err)
{
	const struct idset_entry *known = idset_find(&memo->dirs, FRAME_DIR, id);
	uint64_t sum = 0, one;
	struct smfs_dir *d;

	if (known) {
		*out = known->value;
		return 0;
	}
	if (depth > DIR_DEPTH_MAX)
		return err_set(err, EBADMSG, "nested deeper than %d directories", DIR_DEPTH_MAX);
	int r = smfs_dir_open(s, id, &d, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < smfs_dir_count(d) && r == 0; i++) {
		const struct smfs_entry *e = smfs_dir_at(d, i);

		one = 0;
		if (S_ISDIR(e->mode))
			r = dir_data(s, memo, &e->dir, depth + 1, &one, err);
		else if (S_ISREG(e->mode))
			r = file_data(s, memo, &e->content, &one, err);
		if (r == 0 && add_overflow_u64(sum, one, &sum))
			r = err_set(err, EOVERFLOW, "more data than can be counted");
		if (r < 0)
			err_wrap(err, r, "%s", e->name);
	}
	smfs_dir_close(d);
	*out = sum;
	return r < 0 ? r : remember(&memo->dirs, FRAME_DIR, id, sum, err);
}

int data_bytes(struct smfs_store *s, struct data_memo *memo, const struct smfs_id *root,
	       uint64_t *out, struct err *err)
{
	return dir_data(s, memo, root, 0, out, err);
}

void data_memo_free(struct data_memo *memo)
{
	idset_free(&memo->dirs);
	idset_free(&memo->files);
}
