#include "smfs/store/index_pages.h"

#include "smfs/base/bytes.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"
#include "smfs/store/index_priv.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define LMDB_MAGIC    0xbeefc0deu
#define LMDB_VERSION  1u
#define PAGE_HEAD     16u
#define NODE_HEAD     8u
#define META_OFF      PAGE_HEAD
#define META_BYTES    136u
#define DB_BYTES      48u
#define P_BRANCH      0x01u
#define P_LEAF	      0x02u
#define P_OVERFLOW    0x04u
#define P_META	      0x08u
#define F_BIGDATA     0x01u
#define F_SUBDATA     0x02u
#define FREE_DB_FLAGS 0x08u /* MDB_INTEGERKEY */
#define NO_PAGE	      UINT64_MAX
#define DEPTH_MAX     32
#define KEY_MAX	      511
#define NPAGES_MAX    (16 * TIB / 4096)
#define HEAD_TRIES    100

struct db {
	uint32_t pad;
	uint16_t flags, depth;
	uint64_t branches, leaves, overflows, entries, root;
};

struct meta {
	uint64_t mapsize, last_pg, txnid;
	struct db free, main;
};

enum tree_kind { TREE_FREE, TREE_MAIN, TREE_SEALED, TREE_OTHER };

struct check {
	int fd;
	uint32_t psize;
	uint64_t txnid;	     /* of the header looked at */
	uint64_t npages;     /* last_pg + 1 */
	uint64_t file_pages; /* whole pages in the file; later ones were never written */
	uint8_t *used;	     /* a bit per page */
	uint8_t *big;	     /* an overflow value at a time */
	size_t big_cap;
	/* index_salvage(): the one database of interest; damage is noted and passed over. */
	const char *wanted;
	index_record_fn fn;
	void *arg;
	bool trouble;
};

/* One tree on its way: what was counted, and the last key seen. */
struct tree {
	struct check *c;
	const char *name;
	enum tree_kind kind;
	const struct db *db;
	uint64_t branches, leaves, overflows, entries;
	uint8_t last[KEY_MAX];
	size_t last_len;
	bool any, separator; /* the last key was one: the next may equal it */
};

struct node {
	const uint8_t *key, *data;
	size_t klen;
	uint32_t dlen; /* of a leaf: as stored, or of the value when it is on other pages */
	uint16_t flags;
	uint64_t pgno; /* of a branch: the child */
};

static uint16_t u16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

static int bad(const struct tree *t, uint64_t page, const char *why, struct err *err)
{
	return err_set(err, EBADMSG, "store index: page %" PRIu64 " of `%s`: %s", page, t->name,
		       why);
}

/* ---- headers ---- */

static void get_db(struct reader *r, struct db *db)
{
	db->pad = get_u32(r);
	db->flags = get_u16(r);
	db->depth = get_u16(r);
	db->branches = get_u64(r);
	db->leaves = get_u64(r);
	db->overflows = get_u64(r);
	db->entries = get_u64(r);
	db->root = get_u64(r);
}

static const char *get_meta(const uint8_t page[META_OFF + META_BYTES], unsigned which,
			    struct meta *m)
{
	struct reader r = reader_of(page, META_OFF + META_BYTES);

	if (get_u64(&r) != which)
		return "wrong page number";
	get_u16(&r);
	if (get_u16(&r) != P_META)
		return "not a header page";
	get_u32(&r);
	if (get_u32(&r) != LMDB_MAGIC)
		return "not an LMDB file";
	if (get_u32(&r) != LMDB_VERSION)
		return "another version of LMDB";
	get_u64(&r); /* an address, for a map at a fixed place: never asked for */
	m->mapsize = get_u64(&r);
	get_db(&r, &m->free);
	get_db(&r, &m->main);
	m->last_pg = get_u64(&r);
	m->txnid = get_u64(&r);
	uint32_t psize = m->free.pad;
	if (psize < 4096 || psize > 65536 || (psize & (psize - 1)))
		return "impossible page size";
	if (m->free.flags != FREE_DB_FLAGS || m->main.flags != 0 || m->main.pad != 0)
		return "foreign flags";
	if (m->mapsize % psize || m->mapsize > 16 * TIB || m->last_pg < 1 ||
	    m->last_pg >= NPAGES_MAX || m->last_pg >= m->mapsize / psize)
		return "impossible size";
	if (m->txnid % 2 != which)
		return "a transaction number of the other header";
	return NULL;
}

static int read_metas(int fd, struct meta m[2], const char **why)
{
	uint8_t page[META_OFF + META_BYTES];
	int r;

	*why = NULL;
	/* The page size is part of what is in question: the second header is where the first says.
	 */
	r = pread_full(fd, page, sizeof(page), 0);
	if (r == 0 && !(*why = get_meta(page, 0, &m[0])))
		r = pread_full(fd, page, sizeof(page), m[0].free.pad);
	if (r == -EIO) {
		struct stat st;

		/* Cut short is damage; a disk that does not answer is not. */
		if (fstat(fd, &st) == 0 && (uint64_t)st.st_size < 2 * 4096) {
			*why = "the file is too short";
			return 0;
		}
	}
	if (r == 0 && !*why && !(*why = get_meta(page, 1, &m[1]))) {
		if (m[1].free.pad != m[0].free.pad)
			*why = "two page sizes";
		else if (m[0].txnid + 1 != m[1].txnid && m[1].txnid + 1 != m[0].txnid)
			*why = "headers that are not one transaction apart";
	}
	return r;
}

/* Two readings that agree are no torn one. */
static int stable_metas(int fd, struct meta m[2], struct err *err)
{
	struct meta again[2];
	const char *why = NULL, *before;

	memset(m, 0, 2 * sizeof(*m));
	for (int i = 0; i < HEAD_TRIES; i++) {
		memset(again, 0, sizeof(again));
		before = why;
		int r = read_metas(fd, again, &why);
		if (r < 0) {
			errno = -r;
			return err_errno(err, "store index: read header");
		}
		bool same = i && memcmp(again, m, sizeof(again)) == 0 && before == why;
		memcpy(m, again, sizeof(again));
		if (same && !why)
			return 0;
		if (same && i > 2)
			break;
	}
	return err_set(err, EBADMSG, "store index: header: %s", why ? why : "does not hold still");
}

int index_head_check(int fd, struct index_head *out, struct err *err)
{
	struct meta m[2];
	int r = stable_metas(fd, m, err);

	if (r < 0)
		return r;
	const struct meta *newest = &m[m[1].txnid > m[0].txnid];
	*out = (struct index_head){
		.txnid = newest->txnid, .last_pg = newest->last_pg, .psize = newest->free.pad};
	return 0;
}

/* ---- pages ---- */

static int use_page(struct tree *t, uint64_t pgno, uint64_t n, struct err *err)
{
	struct check *c = t->c;

	if (pgno < 2 || !range_ok(pgno, n, c->npages))
		return bad(t, pgno, "no such page", err);
	for (uint64_t p = pgno; p < pgno + n; p++) {
		if (c->used[p / 8] & 1u << p % 8)
			return bad(t, p, "used twice", err);
		c->used[p / 8] |= (uint8_t)(1u << p % 8);
	}
	return 0;
}

static int read_page(struct tree *t, uint64_t pgno, void *buf, size_t len, struct err *err)
{
	struct check *c = t->c;

	if (!range_ok(pgno, (len + c->psize - 1) / c->psize, c->file_pages))
		return bad(t, pgno, "beyond the end of the file", err);
	int r = pread_full(c->fd, buf, len, pgno * c->psize);
	if (r < 0) {
		errno = -r;
		return err_errno(err, "store index: read page %" PRIu64, pgno);
	}
	struct reader rd = reader_of(buf, PAGE_HEAD);
	return get_u64(&rd) == pgno ? 0 : bad(t, pgno, "another page is there", err);
}

/* A value that has pages of its own: in c->big, after a page header. */
static int read_big(struct tree *t, const struct node *n, const uint8_t **data, struct err *err)
{
	struct check *c = t->c;
	struct reader rd = reader_of(n->data, 8);
	uint64_t pgno = get_u64(&rd), len = PAGE_HEAD + (uint64_t)n->dlen;
	uint64_t need = (len + c->psize - 1) / c->psize;

	if (!range_ok(pgno, need, c->npages))
		return bad(t, pgno, "no such page", err);
	if (len > c->big_cap) {
		void *p = realloc(c->big, len);

		if (!p)
			return err_set(err, ENOMEM, "check index: out of memory");
		c->big = p;
		c->big_cap = len;
	}
	int r = read_page(t, pgno, c->big, len, err);
	if (r < 0)
		return r;
	rd = reader_of(c->big + 12, 4);
	uint32_t pages = get_u32(&rd);
	if (u16(c->big + 10) != P_OVERFLOW || pages < need)
		return bad(t, pgno, "not the value its node says", err);
	t->overflows += pages;
	*data = c->big + PAGE_HEAD;
	return use_page(t, pgno, pages, err);
}

static int compare(enum tree_kind kind, const void *a, size_t alen, const void *b, size_t blen)
{
	if (kind == TREE_FREE) {
		struct reader ra = reader_of(a, 8), rb = reader_of(b, 8);
		uint64_t x = get_u64(&ra), y = get_u64(&rb);

		return x < y ? -1 : x > y;
	}
	int r = memcmp(a, b, MIN(alen, blen));
	return r ? r : alen < blen ? -1 : alen > blen;
}

/* Node `i` of the page, all of it within [upper, psize). */
static bool get_node(const struct tree *t, const uint8_t *page, unsigned i, unsigned upper,
		     bool leaf, struct node *n, unsigned *size)
{
	uint32_t psize = t->c->psize;
	unsigned off = u16(page + PAGE_HEAD + 2 * i);

	if (off < upper || off > psize - NODE_HEAD || off % 2)
		return false;
	const uint8_t *p = page + off;
	uint32_t lohi = u16(p) | (uint32_t)u16(p + 2) << 16;
	n->flags = u16(p + 4);
	n->klen = u16(p + 6);
	n->key = p + NODE_HEAD;
	n->data = n->key + n->klen;
	n->dlen = leaf ? lohi : 0;
	n->pgno = lohi | (uint64_t)n->flags << 32;
	uint64_t len = NODE_HEAD + (uint64_t)n->klen;
	if (leaf)
		len += n->flags & F_BIGDATA ? 8 : (uint64_t)lohi;
	len = align_up(len, 2);
	if (n->klen > KEY_MAX || !range_ok(off, len, psize))
		return false;
	*size = (unsigned)len;
	return true;
}

static int check_free(struct tree *t, uint64_t page, const uint8_t *data, uint32_t len,
		      struct err *err)
{
	struct reader r = reader_of(data, len);
	uint64_t n = get_u64(&r), before = NO_PAGE;

	if (!reader_ok(&r) || n > r.left / 8)
		return bad(t, page, "a list of free pages is cut short", err);
	for (uint64_t i = 0; i < n; i++) {
		uint64_t pg = get_u64(&r);

		if (pg >= before)
			return bad(t, page, "a list of free pages is not sorted", err);
		before = pg;
		int ret = use_page(t, pg, 1, err);
		if (ret < 0)
			return ret;
	}
	return 0;
}

static int check_tree(struct check *c, const char *name, enum tree_kind kind, const struct db *db,
		      struct err *err);

static int check_sub(struct tree *t, uint64_t page, const struct node *n, const uint8_t *data,
		     struct err *err)
{
	static const char *const sealed[] = {"chunks", "nodes", "names", "packs", "meta"};
	enum tree_kind kind = TREE_OTHER;
	struct reader r = reader_of(data, n->dlen);
	char name[64];
	struct db db;

	get_db(&r, &db);
	if (n->flags != F_SUBDATA || !reader_done(&r) || n->klen >= sizeof(name))
		return bad(t, page, "not a database record", err);
	memcpy(name, n->key, n->klen);
	name[n->klen] = '\0';
	/* Ours have plain keys and one value each. */
	if (db.flags || db.pad)
		return bad(t, page, "a database with foreign flags", err);
	if (t->c->wanted && strcmp(name, t->c->wanted) != 0)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(sealed); i++)
		if (strcmp(name, sealed[i]) == 0)
			kind = TREE_SEALED;
	return check_tree(t->c, name, kind, &db, err);
}

/*
 * A list of free pages is under the transaction that freed them. LMDB remembers the latest list it
 * took by that number, and 0 for none: one under 0 would be taken again and again.
 */
static bool freed_by(const struct tree *t, const struct node *n)
{
	struct reader r = reader_of(n->key, n->klen);
	uint64_t txnid = get_u64(&r);

	return txnid > 0 && txnid <= t->c->txnid;
}

static int check_value(struct tree *t, uint64_t page, const struct node *n, struct err *err)
{
	const uint8_t *data = n->data;

	if (n->flags & F_BIGDATA) {
		int r = read_big(t, n, &data, err);

		if (r < 0)
			return r;
	}
	if (t->kind == TREE_MAIN)
		return check_sub(t, page, n, data, err);
	if (n->flags & ~F_BIGDATA)
		return bad(t, page, "foreign flags", err);
	if (t->kind == TREE_FREE && !freed_by(t, n))
		return bad(t, page, "freed by no transaction", err);
	if (t->kind == TREE_FREE)
		return check_free(t, page, data, n->dlen, err);
	if (t->kind == TREE_SEALED && !index_record_ok(n->key, n->klen, data, n->dlen))
		return bad(t, page, "a record with a wrong sum", err);
	return t->c->wanted ? t->c->fn(n->key, n->klen, data, n->dlen, t->c->arg, err) : 0;
}

static int next_key(struct tree *t, uint64_t page, const struct node *n, bool separator,
		    struct err *err)
{
	if (!n->klen || (t->kind == TREE_FREE && n->klen != 8))
		return bad(t, page, "impossible key", err);
	int cmp = t->any ? compare(t->kind, t->last, t->last_len, n->key, n->klen) : -1;
	if (cmp > 0 || (cmp == 0 && !t->separator))
		return bad(t, page, "keys out of order", err);
	memcpy(t->last, n->key, n->klen);
	t->last_len = n->klen;
	t->any = true;
	t->separator = separator;
	return 0;
}

/* Salvage goes on beside what is damaged. */
static int pass_over(struct tree *t, int r, struct err *err)
{
	if (r != -EBADMSG || !t->c->wanted)
		return r;
	t->c->trouble = true;
	err_clear(err);
	return 0;
}

static int check_page(struct tree *t, uint64_t pgno, unsigned level, struct err *err)
{
	cleanup_free uint8_t *page = malloc(t->c->psize);
	bool leaf = level + 1 == t->db->depth;
	int r = page ? use_page(t, pgno, 1, err)
		     : err_set(err, ENOMEM, "check index: out of memory");

	if (r < 0 || (r = read_page(t, pgno, page, t->c->psize, err)) < 0)
		return r;
	unsigned lower = u16(page + 12), upper = u16(page + 14), filled = 0;
	if (u16(page + 10) != (leaf ? P_LEAF : P_BRANCH))
		return bad(t, pgno, "of another kind", err);
	if (lower < PAGE_HEAD || lower % 2 || lower > upper || upper > t->c->psize)
		return bad(t, pgno, "impossible fill", err);
	unsigned n = (lower - PAGE_HEAD) / 2;
	/* An empty database has no root; only the list of free pages may keep a branch of one. */
	if (n < (leaf || t->kind == TREE_FREE ? 1 : 2))
		return bad(t, pgno, "empty", err);
	*(leaf ? &t->leaves : &t->branches) += 1;
	for (unsigned i = 0; i < n; i++) {
		struct node node;
		unsigned size;

		if (!get_node(t, page, i, upper, leaf, &node, &size))
			return bad(t, pgno, "a node outside its page", err);
		filled += size;
		if (leaf) {
			t->entries++;
			r = next_key(t, pgno, &node, false, err);
			if (r == 0)
				r = check_value(t, pgno, &node, err);
			if ((r = pass_over(t, r, err)) < 0)
				return r;
			continue;
		}
		/* A separator is above all before it, and no higher than what follows. */
		r = i ? next_key(t, pgno, &node, true, err) : 0;
		if (r == 0)
			r = check_page(t, node.pgno, level + 1, err);
		if ((r = pass_over(t, r, err)) < 0)
			return r;
	}
	return filled == t->c->psize - upper ? 0 : bad(t, pgno, "nodes overlap or leave gaps", err);
}

static int check_tree(struct check *c, const char *name, enum tree_kind kind, const struct db *db,
		      struct err *err)
{
	struct tree t = {.c = c, .name = name, .kind = kind, .db = db};

	if (db->root == NO_PAGE) {
		if (db->depth || db->branches || db->leaves || db->overflows || db->entries)
			return bad(&t, 0, "empty, and not", err);
		return 0;
	}
	if (!db->depth || db->depth > DEPTH_MAX)
		return bad(&t, db->root, "impossible depth", err);
	int r = check_page(&t, db->root, 0, err);
	if (r < 0)
		return r;
	if (t.branches != db->branches || t.leaves != db->leaves || t.overflows != db->overflows ||
	    t.entries != db->entries)
		return bad(&t, db->root, "more or less in it than recorded", err);
	return 0;
}

int index_pages_check(int fd, uint64_t txnid, struct err *err)
{
	struct meta m[2];
	struct stat st;
	int r = stable_metas(fd, m, err);

	if (r < 0)
		return r;
	/* The header in question stays until the commit after next, which no reader stops. */
	const struct meta *at = &m[txnid % 2];
	if (at->txnid != txnid)
		return at->txnid > txnid ? -EAGAIN
					 : err_set(err, EBADMSG,
						   "store index: header: older than "
						   "its own lock file");
	if (fstat(fd, &st) < 0)
		return err_errno(err, "stat store index");
	struct check c = {
		.fd = fd, .psize = at->free.pad, .txnid = txnid, .npages = at->last_pg + 1};
	c.file_pages = (uint64_t)st.st_size / c.psize;
	c.used = calloc(1, c.npages / 8 + 1);
	if (!c.used)
		return err_set(err, ENOMEM, "check index: out of memory");
	r = check_tree(&c, "main", TREE_MAIN, &at->main, err);
	if (r == 0)
		r = check_tree(&c, "free", TREE_FREE, &at->free, err);
	free(c.used);
	free(c.big);
	return r;
}

/* 1 = good. */
static int read_meta(int fd, unsigned which, uint64_t off, struct meta *m, struct err *err)
{
	uint8_t page[META_OFF + META_BYTES];
	ssize_t n = pread_upto(fd, page, sizeof(page), off);

	if (n < 0) {
		errno = (int)-n;
		return err_errno(err, "read header of store index");
	}
	return n == (ssize_t)sizeof(page) && !get_meta(page, which, m);
}

int index_salvage(int fd, const char *db, index_record_fn fn, void *arg, bool *current,
		  struct err *err)
{
	struct meta m[2];
	struct stat st;
	int first = read_meta(fd, 0, 0, &m[0], err);
	/* Where the first header cannot tell, pages are of the usual size. */
	int second = first < 0 ? first : read_meta(fd, 1, first ? m[0].free.pad : 4096, &m[1], err);

	*current = false;
	if (second < 0)
		return second;
	*current =
		first && second && (m[0].txnid + 1 == m[1].txnid || m[1].txnid + 1 == m[0].txnid);
	if (!first && !second)
		return err_set(err, EBADMSG, "store index: no header can be read");
	if (fstat(fd, &st) < 0)
		return err_errno(err, "stat store index");
	const struct meta *at = &m[second && (!first || m[1].txnid > m[0].txnid)];
	struct check c = {.fd = fd,
			  .psize = at->free.pad,
			  .npages = at->last_pg + 1,
			  .wanted = db,
			  .fn = fn,
			  .arg = arg};
	c.file_pages = (uint64_t)st.st_size / c.psize;
	c.used = calloc(1, c.npages / 8 + 1);
	if (!c.used)
		return err_set(err, ENOMEM, "read index: out of memory");
	int r = check_tree(&c, "main", TREE_MAIN, &at->main, err);
	free(c.used);
	free(c.big);
	if (r == 0 && c.trouble)
		r = err_set(err, EBADMSG, "store index: parts of `%s` cannot be read", db);
	return r;
}
