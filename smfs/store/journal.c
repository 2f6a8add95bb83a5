#include "smfs/store/journal.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"

#include <endian.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#define JOURNAL_MAGIC 0x4c4e524a5346534dull /* "MSFSJRNL" */
#define RECORD_MAGIC  0x4345524au	    /* "JREC" */
#define RECORD_HEAD   24u		    /* magic, length, checksum of the body, zero */
#define RECORD_MAX    (16 * MIB)
#define CHANGES_MAX   10000u
#define PACKS_MAX     65536u

void journal_head_encode(const uint8_t uuid[UUID_LEN], uint8_t out[JOURNAL_HEAD_LEN])
{
	uint64_t magic = htole64(JOURNAL_MAGIC), sum;
	uint32_t version = htole32(STORE_VERSION);

	memset(out, 0, JOURNAL_HEAD_LEN);
	memcpy(out, &magic, 8);
	memcpy(out + 8, &version, 4);
	memcpy(out + 16, uuid, UUID_LEN);
	sum = htole64(XXH3_64bits(out, 56));
	memcpy(out + 56, &sum, 8);
}

int journal_head_check(int fd, const uint8_t uuid[UUID_LEN], struct err *err)
{
	uint8_t want[JOURNAL_HEAD_LEN], got[JOURNAL_HEAD_LEN];

	journal_head_encode(uuid, want);
	ssize_t n = pread_upto(fd, got, sizeof(got), 0);
	if (n < 0) {
		errno = (int)-n;
		return err_errno(err, "read header of journal");
	}
	if (n < JOURNAL_HEAD_LEN)
		return err_set(err, EBADMSG, "journal: shorter than its header");
	if (memcmp(want, got, sizeof(got)) == 0)
		return 0;
	journal_head_encode(got + 16, want);
	if (memcmp(want, got, sizeof(got)) == 0)
		return err_set(err, EBADMSG,
			       "journal and format are of two stores; `smfs fsck --repair` finds "
			       "which is right");
	return err_set(err, EBADMSG, "journal: bad header");
}

static void put_name(struct writer *w, const struct smfs_name *n)
{
	put_u8(w, n->kind);
	put_blob16(w, n->name, strlen(n->name));
	put_bytes(w, n->root.b, SMFS_ID_LEN);
	put_u64(w, n->created);
	put_u64(w, n->seq);
	put_u64(w, n->logical_bytes);
	put_u32(w, n->mode);
	put_u32(w, n->uid);
	put_u32(w, n->gid);
	put_u64(w, n->mtime);
}

static bool get_string(struct reader *r, char out[SMFS_REF_MAX + 1])
{
	size_t n;
	const void *p = get_blob16(r, SMFS_REF_MAX, &n);

	if (!p || memchr(p, 0, n))
		return false;
	memcpy(out, p, n);
	out[n] = '\0';
	return true;
}

static bool get_name(struct reader *r, struct smfs_name *n)
{
	n->kind = get_u8(r);
	if (!get_string(r, n->name))
		return false;
	get_bytes(r, n->root.b, SMFS_ID_LEN);
	n->created = (int64_t)get_u64(r);
	n->seq = get_u64(r);
	n->logical_bytes = get_u64(r);
	n->mode = get_u32(r);
	n->uid = get_u32(r);
	n->gid = get_u32(r);
	n->mtime = (int64_t)get_u64(r);
	return reader_ok(r) && smfs_name_check(n->kind, n->name, NULL) == 0;
}

static int encode(const struct journal_record *rec, struct writer *w)
{
	put_u32(w, RECORD_MAGIC);
	put_u32(w, 0);
	put_u64(w, 0);
	put_u64(w, 0);
	put_u64(w, rec->seq);
	put_u64(w, rec->time);
	put_u32(w, rec->npacks);
	for (size_t i = 0; i < rec->npacks; i++) {
		put_u64(w, rec->packs[i].id);
		put_u64(w, rec->packs[i].len);
	}
	put_u32(w, rec->nchanges);
	for (size_t i = 0; i < rec->nchanges; i++) {
		put_u8(w, rec->changes[i].op);
		put_name(w, &rec->changes[i].name);
		if (rec->changes[i].op == OP_RENAME)
			put_blob16(w, rec->changes[i].from, strlen(rec->changes[i].from));
	}
	put_zero(w, align_up(w->len, 8) - w->len);
	if (w->failed)
		return -ENOMEM;
	if (w->len > RECORD_MAX)
		return -EFBIG;
	patch_u32(w, 4, w->len);
	uint64_t sum = htole64(XXH3_64bits(w->p + RECORD_HEAD, w->len - RECORD_HEAD));
	memcpy(w->p + 8, &sum, 8);
	return 0;
}

int journal_put(int fd, uint64_t *len, const struct journal_record *rec, struct err *err)
{
	cleanup_writer struct writer w = WRITER_INIT;
	int r = encode(rec, &w);

	if (r < 0)
		return err_set(err, -r, "journal record of %zu names: %s", rec->nchanges,
			       strerror(-r));
	r = pwrite_full(fd, w.p, w.len, *len);
	if (r < 0) {
		errno = -r;
		return err_errno(err, "append to journal");
	}
	*len += w.len;
	return 0;
}

/* `seq` 0: any number. */
static int decode(const uint8_t *p, size_t len, uint64_t seq, journal_fn fn, void *arg,
		  struct err *err)
{
	cleanup_free struct journal_change *changes = NULL;
	cleanup_free struct index_pack *packs = NULL;
	struct reader r = reader_of(p, len);
	struct journal_record rec = {.seq = get_u64(&r)};

	rec.time = (int64_t)get_u64(&r);
	rec.npacks = get_u32(&r);
	if ((seq && rec.seq != seq) || rec.npacks > PACKS_MAX || rec.npacks > r.left / 16)
		return -EBADMSG;
	packs = calloc(rec.npacks + 1, sizeof(*packs));
	for (size_t i = 0; packs && i < rec.npacks; i++)
		packs[i] = (struct index_pack){.id = get_u64(&r), .len = get_u64(&r)};
	rec.nchanges = get_u32(&r);
	if (rec.nchanges > CHANGES_MAX)
		return -EBADMSG;
	changes = calloc(rec.nchanges + 1, sizeof(*changes));
	if (!packs || !changes)
		return err_set(err, ENOMEM, "read journal: out of memory");
	for (size_t i = 0; i < rec.nchanges; i++) {
		struct journal_change *c = &changes[i];

		c->op = get_u8(&r);
		if (c->op < OP_PUBLISH || c->op > OP_RENAME || !get_name(&r, &c->name) ||
		    (c->op == OP_RENAME && !get_string(&r, c->from)))
			return -EBADMSG;
	}
	if (!reader_ok(&r) || r.left >= 8)
		return -EBADMSG;
	rec.packs = packs;
	rec.changes = changes;
	return fn(&rec, arg, err);
}

/*
 * The record at `off`: its length with its bytes in *out (caller frees), 0 if there is none that is
 * whole, negative if it cannot be read.
 */
static ssize_t read_record(int fd, uint64_t off, uint64_t len, uint8_t **out, struct err *err)
{
	cleanup_free uint8_t *buf = NULL;
	uint8_t head[RECORD_HEAD];
	struct reader r = reader_of(head, sizeof(head));
	ssize_t got;

	*out = NULL;
	if (!range_ok(off, RECORD_HEAD, len))
		return 0;
	got = pread_upto(fd, head, sizeof(head), off);
	if (got == sizeof(head) && get_u32(&r) == RECORD_MAGIC) {
		uint32_t n = get_u32(&r);
		uint64_t sum = get_u64(&r);

		if (get_u64(&r) != 0 || n <= RECORD_HEAD || n > RECORD_MAX || n % 8 ||
		    !range_ok(off, n, len))
			return 0;
		buf = malloc(n);
		if (!buf)
			return err_set(err, ENOMEM, "read journal: out of memory");
		got = pread_upto(fd, buf, n, off);
		if (got == n && XXH3_64bits(buf + RECORD_HEAD, n - RECORD_HEAD) == sum) {
			*out = steal_ptr(&buf);
			return n;
		}
	}
	/* What a file that is too short does not have is no record; what a disk refuses may be. */
	if (got >= 0)
		return 0;
	errno = (int)-got;
	return err_errno(err, "read journal at %" PRIu64, off);
}

/*
 * One record at most is behind what the index counts: of the commit that was cut short. More were
 * counted once, by an index that is not this one.
 */
int journal_cut(int fd, uint64_t len, struct err *err)
{
	cleanup_free uint8_t *one = NULL, *two = NULL;
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_errno(err, "stat journal");
	if ((uint64_t)st.st_size <= len)
		return 0;
	ssize_t n = read_record(fd, len, (uint64_t)st.st_size, &one, err);
	if (n > 0)
		n = read_record(fd, len + (uint64_t)n, (uint64_t)st.st_size, &two, err);
	if (n < 0)
		return (int)n;
	if (n > 0)
		return err_set(err, EBADMSG,
			       "journal: it has commits that the index does not; run `smfs fsck "
			       "--repair`");
	return ftruncate(fd, (off_t)len) < 0 ? err_errno(err, "truncate journal") : 0;
}

int journal_append(int fd, uint64_t *len, const struct journal_record *rec, struct err *err)
{
	uint64_t end = *len;
	int r = journal_cut(fd, *len, err);

	if (r < 0)
		return r;
	r = journal_put(fd, &end, rec, err);
	if (r < 0)
		return r;
	if (fdatasync(fd) < 0)
		return err_errno(err, "sync journal");
	*len = end;
	return 0;
}

int journal_each(int fd, uint64_t len, journal_fn fn, void *arg, struct err *err)
{
	uint64_t off = JOURNAL_HEAD_LEN, seq = 1;

	while (off < len) {
		cleanup_free uint8_t *buf = NULL;
		ssize_t n = read_record(fd, off, len, &buf, err);
		int r = -EBADMSG;

		if (n < 0)
			return (int)n;
		err_clear(err);
		if (n)
			r = decode(buf + RECORD_HEAD, (size_t)n - RECORD_HEAD, seq, fn, arg, err);
		if (r == -EBADMSG && (!err || !err->code))
			return err_set(err, EBADMSG,
				       "journal: record %" PRIu64 " at %" PRIu64 " does not parse",
				       seq, off);
		if (r < 0)
			return r;
		off += (uint64_t)n;
		seq++;
	}
	return 0;
}

struct scan_at {
	struct journal_scan *scan;
	uint64_t off, len;
};

static int scanned(const struct journal_record *rec, void *arg, struct err *err)
{
	struct scan_at *at = arg;

	return at->scan->record(at->scan, rec, at->off, at->len, err);
}

int journal_scan(int fd, uint64_t len, struct journal_scan *scan, struct err *err)
{
	uint64_t off = JOURNAL_HEAD_LEN, lost = 0;

	while (off < len) {
		cleanup_free uint8_t *buf = NULL;
		ssize_t n = read_record(fd, off, len, &buf, err);
		struct scan_at at = {scan, off, (uint64_t)n};
		int r = 0;

		if (n < 0)
			return (int)n;
		err_clear(err);
		if (n && lost)
			r = scan->lost(scan, lost, off, err);
		if (n && r == 0)
			r = decode(buf + RECORD_HEAD, (size_t)n - RECORD_HEAD, 0, scanned, &at,
				   err);
		/* Right by its sum and not parsed: of a newer program, or forged. No record. */
		if (r == -EBADMSG && (!err || !err->code))
			n = r = 0;
		if (r < 0)
			return r;
		if (!n && !lost)
			lost = off;
		else if (n)
			lost = 0;
		off += n ? (uint64_t)n : 8;
	}
	return lost ? scan->lost(scan, lost, MAX(len, lost), err) : 0;
}
