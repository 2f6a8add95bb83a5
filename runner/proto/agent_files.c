#include "runner/proto/agent_files.h"

#include "runner/proto/tlv.h"

#include <string.h>

#define MODE_MAX 07777u

static int bad(const char *message, const char *what, struct err *err)
{
	return err_set(err, EPROTO, "agent message %s: %s", message, what);
}

/* ---- OPENED -------------------------------------------------------------------------------- */

enum { OPENED_SIZE = 1, OPENED_MODE = 2, OPENED_UID = 3, OPENED_GID = 4, OPENED_MTIME = 5 };

void agent_put_opened(struct writer *w, const struct agent_opened *o)
{
	put_tlv_u64(w, OPENED_SIZE, o->size);
	put_tlv_u32(w, OPENED_MODE, o->mode);
	put_tlv_u32(w, OPENED_UID, o->uid);
	put_tlv_u32(w, OPENED_GID, o->gid);
	put_tlv_u64(w, OPENED_MTIME, (uint64_t)o->mtime_ns);
}

int agent_get_opened(const struct agent_frame *f, struct agent_opened *o, struct err *err)
{
	struct reader r = reader_of(f->data, f->len);
	struct tlv t = {0};
	uint64_t mtime = 0;

	*o = (struct agent_opened){0};
	while (tlv_next(&r, &t)) {
		switch (t.tag) {
		case OPENED_SIZE:
			tlv_u64(&t, &o->size);
			break;
		case OPENED_MODE:
			tlv_u32(&t, &o->mode);
			break;
		case OPENED_UID:
			tlv_u32(&t, &o->uid);
			break;
		case OPENED_GID:
			tlv_u32(&t, &o->gid);
			break;
		case OPENED_MTIME:
			tlv_u64(&t, &mtime);
			break;
		default:
			break;
		}
	}
	o->mtime_ns = (int64_t)mtime;
	if (!tlv_ok(&r, &t))
		return tlv_malformed("OPENED", &t, err);
	return o->mode > MODE_MAX ? bad("OPENED", "no permission bits", err) : 0;
}

/* ---- READ, WRITE, FETCH, PUT ----------------------------------------------------------------- */

/* Of all four. */
enum {
	FILE_PATH = 1,
	READ_OFFSET = 2,
	READ_LENGTH = 3,
	WRITE_MODE = 4,
	WRITE_UID = 5,
	WRITE_GID = 6,
	WRITE_PARENTS = 7,
	PUT_NAME = 8,
	PUT_OWNERS = 9,
};

void agent_put_read(struct writer *w, const struct agent_read *q)
{
	put_tlv_str(w, FILE_PATH, q->path);
	put_tlv_u64(w, READ_OFFSET, q->offset);
	if (q->length != UINT64_MAX)
		put_tlv_u64(w, READ_LENGTH, q->length);
}

int agent_get_read(const struct agent_frame *f, struct agent_read *q, struct err *err)
{
	struct reader r = reader_of(f->data, f->len);
	struct tlv t = {0};

	*q = (struct agent_read){.length = UINT64_MAX};
	while (tlv_next(&r, &t)) {
		if (t.tag == FILE_PATH)
			tlv_str(&t, q->path, sizeof(q->path));
		else if (t.tag == READ_OFFSET)
			tlv_u64(&t, &q->offset);
		else if (t.tag == READ_LENGTH)
			tlv_u64(&t, &q->length);
	}
	if (!tlv_ok(&r, &t))
		return tlv_malformed("READ", &t, err);
	return q->path[0] == '/' ? 0 : bad("READ", "an absolute path is needed", err);
}

void agent_put_write(struct writer *w, const struct agent_write *q)
{
	put_tlv_str(w, FILE_PATH, q->path);
	put_tlv_u32(w, WRITE_MODE, q->mode);
	put_tlv_u32(w, WRITE_UID, q->uid);
	put_tlv_u32(w, WRITE_GID, q->gid);
	put_tlv_u8(w, WRITE_PARENTS, q->parents);
}

int agent_get_write(const struct agent_frame *f, struct agent_write *q, struct err *err)
{
	struct reader r = reader_of(f->data, f->len);
	struct tlv t = {0};

	*q = (struct agent_write){.mode = 0644};
	while (tlv_next(&r, &t)) {
		switch (t.tag) {
		case FILE_PATH:
			tlv_str(&t, q->path, sizeof(q->path));
			break;
		case WRITE_MODE:
			tlv_u32(&t, &q->mode);
			break;
		case WRITE_UID:
			tlv_u32(&t, &q->uid);
			break;
		case WRITE_GID:
			tlv_u32(&t, &q->gid);
			break;
		case WRITE_PARENTS:
			tlv_bool(&t, &q->parents);
			break;
		default:
			break;
		}
	}
	if (!tlv_ok(&r, &t))
		return tlv_malformed("WRITE", &t, err);
	if (q->path[0] != '/' || q->mode > MODE_MAX)
		return bad("WRITE", "an absolute path and permission bits are needed", err);
	return 0;
}

void agent_put_fetch(struct writer *w, const struct agent_fetch *q)
{
	put_tlv_str(w, FILE_PATH, q->path);
}

int agent_get_fetch(const struct agent_frame *f, struct agent_fetch *q, struct err *err)
{
	struct reader r = reader_of(f->data, f->len);
	struct tlv t = {0};

	*q = (struct agent_fetch){0};
	while (tlv_next(&r, &t))
		if (t.tag == FILE_PATH)
			tlv_str(&t, q->path, sizeof(q->path));
	if (!tlv_ok(&r, &t))
		return tlv_malformed("FETCH", &t, err);
	return q->path[0] == '/' ? 0 : bad("FETCH", "an absolute path is needed", err);
}

void agent_put_put(struct writer *w, const struct agent_put *q)
{
	put_tlv_str(w, FILE_PATH, q->path);
	put_tlv_str(w, PUT_NAME, q->name);
	put_tlv_u8(w, PUT_OWNERS, q->owners);
}

int agent_get_put(const struct agent_frame *f, struct agent_put *q, struct err *err)
{
	struct reader r = reader_of(f->data, f->len);
	struct tlv t = {0};

	*q = (struct agent_put){0};
	while (tlv_next(&r, &t)) {
		if (t.tag == FILE_PATH)
			tlv_str(&t, q->path, sizeof(q->path));
		else if (t.tag == PUT_NAME)
			tlv_str(&t, q->name, sizeof(q->name));
		else if (t.tag == PUT_OWNERS)
			tlv_bool(&t, &q->owners);
	}
	if (!tlv_ok(&r, &t))
		return tlv_malformed("PUT", &t, err);
	if (q->path[0] != '/' || strchr(q->name, '/') || !agent_path_check(q->name))
		return bad("PUT", "an absolute path and a plain name are needed", err);
	return 0;
}

/* ---- ENTRY --------------------------------------------------------------------------------- */

enum {
	ENTRY_PATH = 1,
	ENTRY_TYPE = 2,
	ENTRY_MODE = 3,
	ENTRY_UID = 4,
	ENTRY_GID = 5,
	ENTRY_MTIME = 6,
	ENTRY_SIZE = 7,
	ENTRY_RDEV = 8,
	ENTRY_TARGET = 9,
};

void agent_put_entry(struct writer *w, const struct agent_entry *e)
{
	put_tlv_str(w, ENTRY_PATH, e->path);
	put_tlv_u8(w, ENTRY_TYPE, e->type);
	put_tlv_u32(w, ENTRY_MODE, e->mode);
	put_tlv_u32(w, ENTRY_UID, e->uid);
	put_tlv_u32(w, ENTRY_GID, e->gid);
	put_tlv_u64(w, ENTRY_MTIME, (uint64_t)e->mtime_ns);
	if (e->type == ENTRY_FILE)
		put_tlv_u64(w, ENTRY_SIZE, e->size);
	if (e->type == ENTRY_CHAR || e->type == ENTRY_BLOCK)
		put_tlv_u64(w, ENTRY_RDEV, e->rdev);
	if (e->type == ENTRY_SYMLINK || e->type == ENTRY_HARDLINK)
		put_tlv_str(w, ENTRY_TARGET, e->target);
}

bool agent_path_check(const char *path)
{
	unsigned depth = 0;

	if (!*path)
		return true;
	for (const char *p = path;; p++) {
		size_t n = strcspn(p, "/");

		if (n == 0 || n > 255 || ++depth > AGENT_DEPTH_MAX)
			return false;
		if ((n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
			return false;
		p += n;
		if (!*p)
			return true;
	}
}

static void entry_item(struct tlv *t, struct agent_entry *e)
{
	uint64_t mtime = 0;

	switch (t->tag) {
	case ENTRY_PATH:
		tlv_str(t, e->path, sizeof(e->path));
		break;
	case ENTRY_TYPE:
		tlv_u8(t, &e->type);
		break;
	case ENTRY_MODE:
		tlv_u32(t, &e->mode);
		break;
	case ENTRY_UID:
		tlv_u32(t, &e->uid);
		break;
	case ENTRY_GID:
		tlv_u32(t, &e->gid);
		break;
	case ENTRY_MTIME:
		tlv_u64(t, &mtime);
		e->mtime_ns = (int64_t)mtime;
		break;
	case ENTRY_SIZE:
		tlv_u64(t, &e->size);
		break;
	case ENTRY_RDEV:
		tlv_u64(t, &e->rdev);
		break;
	case ENTRY_TARGET:
		tlv_str(t, e->target, sizeof(e->target));
		break;
	default:
		break;
	}
}

int agent_get_entry(const struct agent_frame *f, struct agent_entry *e, struct err *err)
{
	struct reader r = reader_of(f->data, f->len);
	struct tlv t = {0};
	bool link;

	*e = (struct agent_entry){0};
	while (tlv_next(&r, &t))
		entry_item(&t, e);
	if (!tlv_ok(&r, &t))
		return tlv_malformed("ENTRY", &t, err);
	if (e->type < ENTRY_FILE || e->type > ENTRY_BLOCK || e->mode > MODE_MAX)
		return bad("ENTRY", "no type or permission bits there are", err);
	if (!agent_path_check(e->path))
		return bad("ENTRY", "a path that leads out of the tree or is too deep", err);
	link = e->type == ENTRY_SYMLINK || e->type == ENTRY_HARDLINK;
	if (link != (e->target[0] != '\0') || (e->size && e->type != ENTRY_FILE))
		return bad("ENTRY", "a link without target, or what only others have", err);
	if (e->type == ENTRY_HARDLINK && !agent_path_check(e->target))
		return bad("ENTRY", "a hard link that leads out of the tree", err);
	return 0;
}

/* ---- DONE ---------------------------------------------------------------------------------- */

enum { DONE_ENTRIES = 1, DONE_BYTES = 2, DONE_SKIPPED = 3 };

void agent_put_done(struct writer *w, const struct agent_done *d)
{
	put_tlv_u64(w, DONE_ENTRIES, d->entries);
	put_tlv_u64(w, DONE_BYTES, d->bytes);
	put_tlv_u64(w, DONE_SKIPPED, d->skipped);
}

int agent_get_done(const struct agent_frame *f, struct agent_done *d, struct err *err)
{
	struct reader r = reader_of(f->data, f->len);
	struct tlv t = {0};

	*d = (struct agent_done){0};
	while (tlv_next(&r, &t)) {
		if (t.tag == DONE_ENTRIES)
			tlv_u64(&t, &d->entries);
		else if (t.tag == DONE_BYTES)
			tlv_u64(&t, &d->bytes);
		else if (t.tag == DONE_SKIPPED)
			tlv_u64(&t, &d->skipped);
	}
	return tlv_ok(&r, &t) ? 0 : tlv_malformed("DONE", &t, err);
}
