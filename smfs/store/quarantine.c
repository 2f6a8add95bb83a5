#include "smfs/store/quarantine.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/log.h"
#include "smfs/store/idset.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#define QUARANTINE_FILE "quarantine"
#define RECORD_MAGIC	0x46444142u /* "BADF" */
#define RECORD_LEN	64u
#define RECORDS_MAX	1000000u /* beyond, damage is no matter of single frames */

struct note {
	struct smfs_id id;
	struct frame_loc loc; /* kind, pack and off of it */
	bool dropped;
};

struct quarantine {
	pthread_mutex_t lock;
	struct idset ids; /* `stored`: which note */
	struct note *v;
	size_t cap;
	atomic_size_t n; /* read without the lock: mostly there is nothing */
	uint64_t loaded; /* bytes of the file */
	ino_t ino;
	atomic_uint_fast64_t healed;
};

static void encode(const struct note *n, uint8_t out[RECORD_LEN])
{
	uint32_t magic = htole32(RECORD_MAGIC);
	uint64_t q[2] = {htole64(n->loc.pack), htole64(n->loc.off)}, sum;

	memset(out, 0, RECORD_LEN);
	memcpy(out, &magic, 4);
	out[4] = n->loc.kind;
	memcpy(out + 8, n->id.b, SMFS_ID_LEN);
	memcpy(out + 40, q, 16);
	sum = htole64(XXH3_64bits(out, 56));
	memcpy(out + 56, &sum, 8);
}

static bool decode(const uint8_t in[RECORD_LEN], struct note *n)
{
	struct reader r = reader_of(in, RECORD_LEN);

	*n = (struct note){0};
	if (get_u32(&r) != RECORD_MAGIC)
		return false;
	n->loc.kind = get_u8(&r);
	get_u8(&r);
	get_u16(&r);
	get_bytes(&r, n->id.b, SMFS_ID_LEN);
	n->loc.pack = get_u64(&r);
	n->loc.off = get_u64(&r);
	return get_u64(&r) == XXH3_64bits(in, 56) && frame_raw_max(n->loc.kind);
}

static bool same_place(const struct frame_loc *a, const struct frame_loc *b)
{
	return a->kind == b->kind && a->pack == b->pack && a->off == b->off;
}

/* The lock is held. The latest place of a frame counts. */
static bool add(struct quarantine *q, const struct note *n)
{
	bool fresh;
	struct idset_entry *e = idset_add(&q->ids, n->loc.kind, &n->id, &fresh);

	if (!e)
		return false;
	if (!fresh) {
		q->v[e->stored] = *n;
		return true;
	}
	size_t at = atomic_load(&q->n);
	if (at == q->cap) {
		size_t cap = q->cap ? q->cap * 2 : 64;
		struct note *v = reallocarray(q->v, cap, sizeof(*v));

		if (!v) {
			/* Without a note it stands for none. */
			e->kind = 0;
			q->ids.n--;
			return false;
		}
		q->v = v;
		q->cap = cap;
	}
	e->stored = (uint32_t)at;
	q->v[at] = *n;
	atomic_store(&q->n, at + 1);
	return true;
}

static struct note *find(struct quarantine *q, uint8_t kind, const struct smfs_id *id)
{
	struct idset_entry *e = idset_find(&q->ids, kind, id);

	return e && !q->v[e->stored].dropped ? &q->v[e->stored] : NULL;
}

static void load(struct smfs_store *s, struct quarantine *q)
{
	cleanup_fd int fd = openat(s->dirfd, QUARANTINE_FILE, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	uint8_t buf[RECORD_LEN];
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return;
	if (st.st_ino != q->ino)
		q->loaded = 0;
	q->ino = st.st_ino;
	while (q->loaded + RECORD_LEN <= (uint64_t)st.st_size && atomic_load(&q->n) < RECORDS_MAX &&
	       pread_full(fd, buf, RECORD_LEN, q->loaded) == 0) {
		struct note n;

		q->loaded += RECORD_LEN;
		if (decode(buf, &n))
			add(q, &n);
	}
}

int quarantine_open(struct smfs_store *s, struct err *err)
{
	struct quarantine *q = calloc(1, sizeof(*q));

	if (!q)
		return err_set(err, ENOMEM, "open store %s: out of memory", s->dir);
	pthread_mutex_init(&q->lock, NULL);
	load(s, q);
	s->quarantine = q;
	return 0;
}

void quarantine_close(struct smfs_store *s)
{
	struct quarantine *q = s->quarantine;

	if (!q)
		return;
	idset_free(&q->ids);
	free(q->v);
	pthread_mutex_destroy(&q->lock);
	free(q);
	s->quarantine = NULL;
}

void quarantine_reload(struct smfs_store *s)
{
	pthread_mutex_lock(&s->quarantine->lock);
	load(s, s->quarantine);
	pthread_mutex_unlock(&s->quarantine->lock);
}

void quarantine_note(struct smfs_store *s, const struct smfs_id *id, const struct frame_loc *loc)
{
	struct quarantine *q = s->quarantine;
	struct note n = {.id = *id, .loc = *loc};
	uint8_t buf[RECORD_LEN];
	struct frame_loc now;
	char hex[65];

	/* A collection may have moved the frame: then it is the old place that is bad, and no
	 * matter. */
	if (index_find(s->ix, loc->kind, id, &now, NULL) != 1 || !same_place(&now, loc))
		return;
	pthread_mutex_lock(&q->lock);
	struct note *have = find(q, loc->kind, id);
	bool fresh = !(have && same_place(&have->loc, loc)) && atomic_load(&q->n) < RECORDS_MAX &&
		     add(q, &n);
	pthread_mutex_unlock(&q->lock);
	if (!fresh)
		return;
	log_info("frame %.12s in pack %016" PRIx64 " at %" PRIu64
		 " is damaged; storing the same content again heals it",
		 smfs_id_hex(id, hex), loc->pack, loc->off);
	encode(&n, buf);
	cleanup_fd int fd = openat(s->dirfd, QUARANTINE_FILE,
				   O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd >= 0 && write(fd, buf, RECORD_LEN) != RECORD_LEN)
		log_debug("note a damaged frame in %s/" QUARANTINE_FILE ": %m", s->dir);
}

bool quarantine_place(struct smfs_store *s, uint8_t kind, const struct smfs_id *id,
		      struct frame_loc *loc)
{
	struct quarantine *q = s->quarantine;

	if (!atomic_load(&q->n))
		return false;
	pthread_mutex_lock(&q->lock);
	struct note *n = find(q, kind, id);
	bool there = n && n->loc.kind == kind;
	if (there)
		*loc = n->loc;
	pthread_mutex_unlock(&q->lock);
	return there;
}

bool quarantine_has(struct smfs_store *s, const struct smfs_id *id, const struct frame_loc *loc)
{
	struct frame_loc noted;

	return quarantine_place(s, loc->kind, id, &noted) && same_place(&noted, loc);
}

/* The index is not asked with the lock held: it may wait for a transaction, in which somebody asks
 * for a note. False past the last. */
static bool note_at(struct quarantine *q, size_t i, struct note *n)
{
	pthread_mutex_lock(&q->lock);
	bool there = i < atomic_load(&q->n);
	if (there)
		*n = q->v[i];
	pthread_mutex_unlock(&q->lock);
	return there;
}

static bool is_current(struct smfs_store *s, const struct note *n)
{
	struct frame_loc now;

	return index_find(s->ix, n->loc.kind, &n->id, &now, NULL) == 1 && same_place(&now, &n->loc);
}

bool quarantine_keeps(struct smfs_store *s, uint64_t pack)
{
	struct note n;

	for (size_t i = 0; note_at(s->quarantine, i, &n); i++)
		if (!n.dropped && n.loc.pack == pack && is_current(s, &n))
			return true;
	return false;
}

void quarantine_forget(struct smfs_store *s, const struct smfs_id *id, const struct frame_loc *loc)
{
	struct quarantine *q = s->quarantine;

	if (!atomic_load(&q->n))
		return;
	pthread_mutex_lock(&q->lock);
	struct note *n = find(q, loc->kind, id);
	if (n && same_place(&n->loc, loc))
		n->dropped = true;
	pthread_mutex_unlock(&q->lock);
}

void quarantine_prune(struct smfs_store *s)
{
	struct quarantine *q = s->quarantine;
	cleanup_writer struct writer w = WRITER_INIT;
	bool dropped = false;
	struct note old;

	if (!atomic_load(&q->n))
		return;
	quarantine_reload(s);
	for (size_t i = 0; note_at(q, i, &old); i++)
		if (!old.dropped && !is_current(s, &old))
			quarantine_forget(s, &old.id, &old.loc);
	pthread_mutex_lock(&q->lock);
	load(s, q);
	for (size_t i = 0; i < atomic_load(&q->n); i++) {
		struct note *n = &q->v[i];
		uint8_t buf[RECORD_LEN];

		dropped |= n->dropped;
		if (n->dropped)
			continue;
		encode(n, buf);
		put_bytes(&w, buf, RECORD_LEN);
	}
	if (dropped && !w.failed && !w.len)
		unlinkat(s->dirfd, QUARANTINE_FILE, 0);
	else if (dropped && !w.failed)
		write_file_atomic(s->dirfd, QUARANTINE_FILE, w.p, w.len, 0600, NULL);
	if (dropped) {
		struct stat st;

		/* What is in memory is what is in the new file. */
		q->ino = fstatat(s->dirfd, QUARANTINE_FILE, &st, 0) == 0 ? st.st_ino : 0;
		q->loaded = w.len;
	}
	pthread_mutex_unlock(&q->lock);
}

void quarantine_healed(struct smfs_store *s, size_t n)
{
	atomic_fetch_add(&s->quarantine->healed, n);
	log_info("%zu damaged frames are whole again", n);
	quarantine_prune(s);
}

uint64_t quarantine_heals(struct smfs_store *s)
{
	return atomic_load(&s->quarantine->healed);
}

size_t quarantine_count(struct smfs_store *s)
{
	struct quarantine *q = s->quarantine;
	size_t n = 0;

	pthread_mutex_lock(&q->lock);
	for (size_t i = 0; i < atomic_load(&q->n); i++)
		n += !q->v[i].dropped;
	pthread_mutex_unlock(&q->lock);
	return n;
}
