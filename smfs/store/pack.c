#include "smfs/store/pack.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/hex.h"
#include "smfs/base/io.h"

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <string.h>

#define OPEN_MAX_PACKS 64

struct pack_ref {
	uint64_t id;
	uint64_t used; /* clock of the last use */
	int fd;
	unsigned refs;
	bool kept; /* in the table */
};

struct packs {
	int dirfd;
	uint8_t uuid[UUID_LEN];
	pthread_mutex_t lock;
	uint64_t clock;
	struct pack_ref *open[OPEN_MAX_PACKS];
};

int packs_new(int dirfd, const uint8_t uuid[UUID_LEN], struct packs **out, struct err *err)
{
	struct packs *p = calloc(1, sizeof(*p));

	if (!p) {
		close(dirfd);
		return err_set(err, ENOMEM, "open packs: out of memory");
	}
	p->dirfd = dirfd;
	memcpy(p->uuid, uuid, UUID_LEN);
	pthread_mutex_init(&p->lock, NULL);
	*out = p;
	return 0;
}

static void ref_free(struct pack_ref *r)
{
	close(r->fd);
	free(r);
}

void packs_free(struct packs *p)
{
	if (!p)
		return;
	for (int i = 0; i < OPEN_MAX_PACKS; i++)
		if (p->open[i])
			ref_free(p->open[i]);
	close(p->dirfd);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

int packs_dirfd(const struct packs *p)
{
	return p->dirfd;
}

char *pack_name(uint64_t id, char out[PACK_NAME_LEN])
{
	snprintf(out, PACK_NAME_LEN, "%016" PRIx64 ".pack", id);
	return out;
}

bool pack_name_parse(const char *name, uint64_t *id)
{
	uint8_t b[8];
	uint64_t v = 0;

	if (strlen(name) != 21 || strcmp(name + 16, ".pack") != 0 || !hex_decode(name, 16, b, 8))
		return false;
	for (int i = 0; i < 8; i++)
		v = v << 8 | b[i];
	*id = v;
	return true;
}

static int pack_open(struct packs *p, uint64_t id, struct err *err)
{
	uint8_t head[PACK_HEAD_LEN];
	char name[PACK_NAME_LEN];
	struct pack_head h;

	pack_name(id, name);
	cleanup_fd int fd = openat(p->dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 && errno == ENOENT)
		return err_set(err, EBADMSG, "pack %s: missing", name);
	if (fd < 0)
		return err_errno(err, "open pack %s", name);
	/* A disk that does not answer is no damage: nothing is noted, and nothing made anew. */
	ssize_t n = pread_upto(fd, head, sizeof(head), 0);
	if (n < 0) {
		errno = (int)-n;
		return err_errno(err, "read header of pack %s", name);
	}
	if (n < (ssize_t)sizeof(head))
		return err_set(err, EBADMSG, "pack %s: shorter than its header", name);
	int r = pack_head_decode(head, &h);
	if (r == -ENOTSUP)
		return err_set(err, ENOTSUP, "pack %s: format newer than this program", name);
	if (r < 0 || h.id != id || memcmp(h.uuid, p->uuid, UUID_LEN) != 0)
		return err_set(err, EBADMSG, "pack %s: bad header or of another store", name);
	return steal_fd(&fd);
}

static struct pack_ref *table_find(struct packs *p, uint64_t id)
{
	for (int i = 0; i < OPEN_MAX_PACKS; i++)
		if (p->open[i] && p->open[i]->id == id)
			return p->open[i];
	return NULL;
}

/* Keep `r` in the table, in a free place or that of the idle one unused longest. */
static struct pack_ref *table_keep(struct packs *p, struct pack_ref *r)
{
	struct pack_ref *old = NULL;
	int place = -1;

	for (int i = 0; i < OPEN_MAX_PACKS; i++) {
		struct pack_ref *o = p->open[i];

		if (!o) {
			old = NULL;
			place = i;
			break;
		}
		if (o->refs == 0 && (!old || o->used < old->used)) {
			old = o;
			place = i;
		}
	}
	if (place >= 0) {
		p->open[place] = r;
		r->kept = true;
	}
	return old;
}

int pack_ref(struct packs *p, uint64_t id, struct pack_ref **out, struct err *err)
{
	pthread_mutex_lock(&p->lock);
	struct pack_ref *r = table_find(p, id);
	if (r) {
		r->refs++;
		r->used = ++p->clock;
	}
	pthread_mutex_unlock(&p->lock);
	if (r) {
		*out = r;
		return 0;
	}

	int fd = pack_open(p, id, err);
	if (fd < 0)
		return fd;
	struct pack_ref *fresh = calloc(1, sizeof(*fresh));
	if (!fresh) {
		close(fd);
		return err_set(err, ENOMEM, "open pack: out of memory");
	}
	*fresh = (struct pack_ref){.id = id, .fd = fd};
	struct pack_ref *drop = fresh;
	pthread_mutex_lock(&p->lock);
	r = table_find(p, id);
	if (!r) {
		r = fresh;
		drop = table_keep(p, fresh);
	}
	r->refs++;
	r->used = ++p->clock;
	pthread_mutex_unlock(&p->lock);
	if (drop)
		ref_free(drop);
	*out = r;
	return 0;
}

void pack_unref(struct packs *p, struct pack_ref *r)
{
	pthread_mutex_lock(&p->lock);
	bool last = --r->refs == 0 && !r->kept;
	pthread_mutex_unlock(&p->lock);
	if (last)
		ref_free(r);
}

void packs_forget(struct packs *p, uint64_t id)
{
	struct pack_ref *drop = NULL;

	pthread_mutex_lock(&p->lock);
	for (int i = 0; i < OPEN_MAX_PACKS; i++) {
		struct pack_ref *r = p->open[i];

		if (!r || r->id != id)
			continue;
		p->open[i] = NULL;
		r->kept = false;
		drop = r->refs == 0 ? r : NULL;
		break;
	}
	pthread_mutex_unlock(&p->lock);
	if (drop)
		ref_free(drop);
}

int pack_fd(const struct pack_ref *r)
{
	return r->fd;
}

static int bad_frame(struct err *err, const struct frame_loc *loc, const struct smfs_id *id,
		     const char *why)
{
	char hex[65], name[PACK_NAME_LEN];

	return err_set(err, EBADMSG, "frame %.12s in pack %s at %" PRIu64 ": %s",
		       smfs_id_hex(id, hex), pack_name(loc->pack, name), loc->off, why);
}

static int check_frame(const struct frame_loc *loc, const struct smfs_id *id, const uint8_t *buf,
		       struct err *err)
{
	struct frame_head h;

	if (frame_head_decode(buf, &h) < 0)
		return bad_frame(err, loc, id, "bad header");
	if (!id_equal(&h.id, id) || h.kind != loc->kind || h.codec != loc->codec ||
	    h.raw_len != loc->raw_len || h.stored_len != loc->stored_len)
		return bad_frame(err, loc, id, "another frame is there");
	if (!frame_payload_ok(&h, buf + FRAME_HEAD_LEN))
		return bad_frame(err, loc, id, "bad checksum");
	for (uint64_t i = FRAME_HEAD_LEN + h.stored_len; i < frame_disk_len(h.stored_len); i++)
		if (buf[i])
			return bad_frame(err, loc, id, "bad padding");
	return 0;
}

int pack_read_frame(struct packs *p, const struct frame_loc *loc, const struct smfs_id *id,
		    uint8_t *buf, struct err *err)
{
	struct pack_ref *pack;
	int r = pack_ref(p, loc->pack, &pack, err);

	if (r < 0)
		return r;
	ssize_t n = pread_upto(pack->fd, buf, frame_disk_len(loc->stored_len), loc->off);
	pack_unref(p, pack);
	if (n < 0) {
		errno = (int)-n;
		return err_errno(err, "read pack %016" PRIx64 " at %" PRIu64, loc->pack, loc->off);
	}
	if ((uint64_t)n != frame_disk_len(loc->stored_len))
		return bad_frame(err, loc, id, "the pack ends before it");
	return check_frame(loc, id, buf, err);
}
