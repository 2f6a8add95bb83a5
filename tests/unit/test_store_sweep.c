/*
 * Every byte of every file of a small store, flipped in turn. Of each flip comes one of
 *
 *   harmless   the check is clean, every name reads as it was, and the store is written to
 *   repaired   something refused, with its name; after a repair all is as it was
 *   healed     a repair says which names it leaves damaged, and storing their content again makes
 *              them whole
 *
 * and never a name that reads as something else, a name that is wrong and not spoken of, or a
 * process that dies.
 *
 *   test_store_sweep            a sample
 *   SWEEP=all                   every byte (of equal slots some); SWEEP_PROCS (2) processes
 *   SWEEP_FILE=index/data.mdb   only files with that in their path
 */
#include "sweep_store.h"

#include "smfs/base/bytes.h"
#include "smfs/base/io.h"
#include "smfs/store/names_each.h"

#include <dirent.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <xxhash.h>

#define NAMES_MAX 8
#define FILES_MAX 16
#define SAMPLE	  40 /* bytes of each file, unless all */

/* ---- a name, and all that can be read through it, as text ---- */

static void put_text(struct writer *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void put_text(struct writer *w, const char *fmt, ...)
{
	char line[1024];
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	assert_in_range(n, 0, sizeof(line) - 1);
	put_bytes(w, line, (size_t)n);
}

static int put_file(struct smfs_store *s, const struct smfs_content *c, struct writer *w,
		    struct err *err)
{
	cleanup_free uint8_t *buf = malloc(c->size + 1);
	struct smfs_file *file;
	int r = smfs_file_open(s, c, &file, err);

	if (r < 0)
		return r;
	ssize_t n = smfs_file_pread(file, buf, c->size + 1, 0, err);
	smfs_file_close(file);
	if (n < 0)
		return (int)n;
	XXH128_hash_t h = XXH3_128bits(buf, (size_t)n);
	put_text(w, " %zd %016" PRIx64 "%016" PRIx64, n, h.high64, h.low64);
	return 0;
}

static int put_tree(struct smfs_store *s, const struct smfs_id *id, struct writer *w,
		    struct err *err)
{
	struct smfs_dir *d;
	int r = smfs_dir_open(s, id, &d, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < smfs_dir_count(d) && r == 0; i++) {
		const struct smfs_entry *e = smfs_dir_at(d, i);

		put_text(w, "%s %o %u:%u %u:%u %" PRId64 ".%u %u %" PRIu64 " %s", e->name, e->mode,
			 e->uid, e->gid, e->rdev_major, e->rdev_minor, e->mtime_sec, e->mtime_nsec,
			 e->nlink, e->link, e->target ? e->target : "-");
		for (size_t x = 0; x < e->nxattrs; x++) {
			put_text(w, " %s=", e->xattrs[x].name);
			put_bytes(w, e->xattrs[x].value, e->xattrs[x].len);
		}
		if (S_ISREG(e->mode))
			r = put_file(s, &e->content, w, err);
		put_text(w, "\n");
		if (r == 0 && S_ISDIR(e->mode))
			r = put_tree(s, &e->dir, w, err);
	}
	smfs_dir_close(d);
	return r;
}

/* Names of one root have one tree: *tree is that of `root`, once read. */
struct tree {
	struct smfs_id root;
	struct writer text;
};

static int put_name(struct smfs_store *s, const struct smfs_name *n, struct tree *tree,
		    struct writer *w, struct err *err)
{
	char hex[65];
	int r = 0;

	put_text(w, "%s %s %s %" PRId64 " %" PRIu64 " %" PRIu64 " %o %u:%u %" PRId64 "\n",
		 kind_word(n->kind), n->name, smfs_id_hex(&n->root, hex), n->created, n->seq,
		 n->logical_bytes, n->mode, n->uid, n->gid, n->mtime);
	if (!tree->text.len || memcmp(&tree->root, &n->root, sizeof(tree->root)) != 0) {
		tree->root = n->root;
		tree->text.len = 0;
		r = put_tree(s, &n->root, &tree->text, err);
		if (r < 0)
			tree->text.len = 0;
	}
	put_bytes(w, tree->text.p, tree->text.len);
	return r;
}

/* ---- what a flip does ---- */

struct known {
	struct smfs_name name;
	struct writer text;
};

struct file {
	char path[160]; /* below the store */
	uint8_t *bytes;
	size_t len;
};

struct sweep {
	struct fixture f; /* dir: of the worker's copy */
	struct known known[NAMES_MAX];
	size_t nknown;
	struct file files[FILES_MAX];
	size_t nfiles;
	/* the flip under way */
	const struct file *hit;
	size_t at;
};

enum outcome { HARMLESS = 10, REPAIRED, HEALED, OUTCOMES };

/* In a child, which cmocka does not watch. */
#define bad(w, ...)                                                          \
	do {                                                                 \
		fprintf(stderr, "# %s byte %zu: ", (w)->hit->path, (w)->at); \
		fprintf(stderr, __VA_ARGS__);                                \
		fprintf(stderr, "\n");                                       \
		_exit(1);                                                    \
	} while (0)

static void add_line(void *arg, const char *line)
{
	put_bytes(arg, line, strlen(line));
	put_u8(arg, '\n');
}

struct listing {
	const struct sweep *w;
	size_t n;
};

static int is_known(const struct smfs_name *n, void *arg, struct err *err)
{
	struct listing *l = arg;

	for (size_t i = 0; i < l->w->nknown; i++)
		if (l->w->known[i].name.kind == n->kind &&
		    strcmp(l->w->known[i].name.name, n->name) == 0)
			return 0;
	bad(l->w, "a name nobody gave: %s", n->name);
}

/*
 * How many names are as they were. The rest must be refused, and be spoken of in `said`, the
 * findings of a check.
 */
static size_t right_names(struct sweep *w, const struct writer *said)
{
	struct listing l = {.w = w};
	struct err err = ERR_INIT;
	struct tree tree = {.text = WRITER_INIT};
	size_t right = 0;
	int r = names_each(w->f.s, is_known, &l, &err);

	if (r < 0 && r != -EBADMSG)
		bad(w, "names: %s", err.msg);
	for (size_t i = 0; i < w->nknown; i++) {
		const struct known *k = &w->known[i];
		cleanup_writer struct writer text = WRITER_INIT;
		struct smfs_name n;
		char what[512];

		r = smfs_name_get(w->f.s, k->name.kind, k->name.name, &n, &err);
		if (r == 0)
			r = put_name(w->f.s, &n, &tree, &text, &err);
		if (r == 0) {
			if (text.len != k->text.len || memcmp(text.p, k->text.p, text.len) != 0)
				bad(w, "%s reads as something else, and nothing is said",
				    k->name.name);
			right++;
			continue;
		}
		if (r != -EBADMSG && r != -ENOENT)
			bad(w, "%s: %d: %s", k->name.name, r, err.msg);
		snprintf(what, sizeof(what), "%s %s", kind_word(k->name.kind), k->name.name);
		if (!memmem(said->p, said->len, what, strlen(what)))
			bad(w, "%s is refused (%s), the check says only: %.*s", what, err.msg,
			    (int)said->len, said->p ? (char *)said->p : "");
	}
	free(tree.text.p);
	return right;
}

/* The store opened and checked; its message names what is hit. 0, or what refused it. */
static int check(struct sweep *w, size_t *right)
{
	cleanup_writer struct writer said = WRITER_INIT;
	struct smfs_fsck k = {.report = add_line, .arg = &said};
	struct err err = ERR_INIT;
	char part[160];
	int r = smfs_store_open(w->f.dir, 0, &w->f.s, &err);

	*right = 0;
	if (r < 0) {
		snprintf(part, sizeof(part), "%.*s", (int)strcspn(w->hit->path, "/"), w->hit->path);
		w->f.s = NULL;
		if (r != -EBADMSG && r != -ENOTSUP && r != -ENOENT)
			bad(w, "open: %d: %s", r, err.msg);
		if (!strstr(err.msg, part))
			bad(w, "open does not name the %s: %s", part, err.msg);
		return r;
	}
	r = smfs_fsck(w->f.s, SMFS_FSCK_READ_DATA, &k, &err);
	if (r < 0 && r != -EBADMSG)
		bad(w, "check: %d: %s", r, err.msg);
	if (r < 0 && said.len == 0)
		add_line(&said, err.msg);
	*right = right_names(w, &said);
	if (r == 0 && *right != w->nknown)
		bad(w, "the check is clean, and %zu of %zu names are whole", *right, w->nknown);
	return r;
}

static void must_be_clean(struct sweep *w, const char *when)
{
	size_t right;

	close_store(&w->f);
	if (check(w, &right) < 0)
		bad(w, "not clean %s", when);
}

/* It goes on to be a store. A limit of another size may say no. */
static void write_to_it(struct sweep *w)
{
	struct err err = ERR_INIT;
	struct smfs_content c;
	struct smfs_ingest *ing;
	struct smfs_id root;
	struct smfs_entry e = {.name = "data", .mode = S_IFREG | 0644, .nlink = 1};
	int r = smfs_ingest_begin(w->f.s, &ing, &err);

	if (r == 0) {
		if ((r = smfs_ingest_mem(ing, "new", 3, &c, &err)) == 0) {
			e.content = c;
			r = smfs_ingest_dir(ing, &e, 1, &root, &err);
		}
		if (r == 0)
			r = smfs_ingest_name(ing, SMFS_SNAPSHOT, "new", &root, NULL, 0, &err);
		if (r == 0)
			r = smfs_ingest_commit(ing, &err);
		else
			smfs_ingest_abort(ing);
	}
	if (r == 0)
		r = smfs_name_remove(w->f.s, SMFS_SNAPSHOT, "new", &err);
	if (r < 0 && strcmp(w->hit->path, "limit") != 0)
		bad(w, "written to: %s", err.msg);
	if (r < 0 && !strstr(err.msg, "limit"))
		bad(w, "written to: %s", err.msg);
	must_be_clean(w, "after it was written to");
}

static enum outcome flipped(struct sweep *w)
{
	struct smfs_fsck k = {0};
	struct err err = ERR_INIT;
	size_t before, after;

	if (check(w, &before) == 0) {
		write_to_it(w);
		return HARMLESS;
	}
	close_store(&w->f);
	if (smfs_repair(w->f.dir, &k, &err) < 0)
		bad(w, "%s", err.msg);
	if (k.guesses)
		bad(w, "%" PRIu64 " things are lost or guessed", k.guesses);
	int r = check(w, &after);
	if (!w->f.s)
		bad(w, "repaired, and cannot be opened");
	if (after < before)
		bad(w, "%zu names were whole, %zu are after the repair", before, after);
	if (r == 0)
		write_to_it(w);
	else
		put_all(&w->f, "-again");
	if (r < 0) {
		if (smfs_name_remove(w->f.s, SMFS_SNAPSHOT, "base-again", &err) < 0 ||
		    smfs_name_remove(w->f.s, SMFS_SNAPSHOT, "child-again", &err) < 0)
			bad(w, "%s", err.msg);
		/* The only content that is not in those two. */
		struct smfs_name last;
		if (smfs_name_get(w->f.s, SMFS_SNAPSHOT, "last", &last, &err) < 0)
			bad(w, "%s", err.msg);
		put_small(&w->f, "last-again", 3);
		if (smfs_name_remove(w->f.s, SMFS_SNAPSHOT, "last-again", &err) < 0)
			bad(w, "%s", err.msg);
		must_be_clean(w, "after all was stored again");
	}
	close_store(&w->f);
	if (smfs_repair_done(w->f.dir, &err) < 0)
		bad(w, "%s", err.msg);
	return r == 0 ? REPAIRED : HEALED;
}

/* ---- the sweep ---- */

static void load_files(struct sweep *w, const char *dir, const char *sub)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", dir, sub);
	cleanup_dir DIR *d = opendir(path);
	struct dirent *e;

	assert_non_null(d);
	while ((e = readdir(d))) {
		struct file *file = &w->files[w->nfiles];
		char *bytes;
		struct stat st;

		if (e->d_name[0] == '.')
			continue;
		assert_true(w->nfiles < FILES_MAX);
		assert_int_equal(fstatat(dirfd(d), e->d_name, &st, 0), 0);
		snprintf(file->path, sizeof(file->path), "%s%s%.60s", sub, *sub ? "/" : "",
			 e->d_name);
		if (S_ISDIR(st.st_mode)) {
			char below[sizeof(file->path)];

			memcpy(below, file->path, sizeof(below));
			load_files(w, dir, below);
			continue;
		}
		assert_int_equal(read_file(dirfd(d), e->d_name, MIB, &bytes, &file->len, NULL), 0);
		file->bytes = (uint8_t *)bytes;
		w->nfiles++;
	}
}

static void write_copy(const struct sweep *w)
{
	static const char *const dirs[] = {"", "/packs", "/index", "/tmp"};
	char path[256];

	rm_tree(w->f.dir);
	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		snprintf(path, sizeof(path), "%s%s", w->f.dir, dirs[i]);
		assert_int_equal(mkdir(path, 0700), 0);
	}
	for (size_t i = 0; i < w->nfiles; i++) {
		const struct file *file = &w->files[i];
		uint8_t *b = file == w->hit ? &file->bytes[w->at] : NULL;
		uint8_t bit = (uint8_t)(1u << (w->at + w->at / 8) % 8);

		snprintf(path, sizeof(path), "%s/%s", w->f.dir, file->path);
		cleanup_fd int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (b)
			*b ^= bit;
		assert_int_equal(write_full(fd, file->bytes, file->len), 0);
		if (b)
			*b ^= bit;
	}
}

static void learn_names(struct sweep *w, struct fixture *f)
{
	static const struct {
		enum smfs_kind kind;
		const char *name;
	} names[] = {
		{SMFS_SNAPSHOT, "child"},
		{SMFS_SNAPSHOT, "last"},
		{SMFS_SNAPSHOT, "base"},
		{SMFS_LAYER, LAYER},
		{SMFS_IMAGE, "localhost/small/it:1"},
	};

	struct tree tree = {.text = WRITER_INIT};

	ok(f, smfs_store_open(f->dir, SMFS_RDONLY, &f->s, &f->err));
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		struct known *k = &w->known[w->nknown++];

		ok(f, smfs_name_get(f->s, names[i].kind, names[i].name, &k->name, &f->err));
		ok(f, put_name(f->s, &k->name, &tree, &k->text, &f->err));
		assert_false(k->text.failed);
	}
	free(tree.text.p);
	close_store(f);
}

struct tally {
	unsigned n[FILES_MAX][OUTCOMES - HARMLESS];
	unsigned failed;
};

static void flip_one(struct sweep *w, struct tally *t)
{
	int status;

	write_copy(w);
	pid_t pid = fork();
	if (pid == 0) {
		alarm(300);
		_exit(flipped(w));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
	if (code >= HARMLESS && code < OUTCOMES) {
		__atomic_fetch_add(&t->n[w->hit - w->files][code - HARMLESS], 1, __ATOMIC_RELAXED);
		return;
	}
	if (WIFSIGNALED(status))
		fprintf(stderr, "# %s byte %zu: the process died of signal %d\n", w->hit->path,
			w->at, WTERMSIG(status));
	__atomic_fetch_add(&t->failed, 1, __ATOMIC_RELAXED);
}

/*
 * LMDB's table of readers: thousands of equal slots in memory that processes share, of which the
 * first to open it makes another.
 */
#define SLOTS_AT   4096u
#define SLOTS_STEP 997u

static bool shared_memory(const struct file *file)
{
	return strcmp(file->path, "index/lock.mdb") == 0;
}

/* Worker `me` of `all`: every all-th flip. */
static void work(struct sweep *w, unsigned me, unsigned all, bool every, struct tally *t)
{
	const char *only = getenv("SWEEP_FILE");
	unsigned turn = 0;

	snprintf(w->f.dir, sizeof(w->f.dir), "/dev/shm/smfs-sweep.XXXXXX");
	assert_non_null(mkdtemp(w->f.dir));
	for (size_t i = 0; i < w->nfiles; i++) {
		/* odd, so that a sample meets every bit and field */
		size_t step = every ? 1 : w->files[i].len / SAMPLE | 1;

		w->hit = &w->files[i];
		if (only && !strstr(w->hit->path, only))
			continue;
		if (every && me == 0)
			fprintf(stderr, "# %s\n", w->hit->path);
		for (w->at = 0; w->at < w->hit->len; w->at += step) {
			if (every && w->at == SLOTS_AT && shared_memory(w->hit))
				step = SLOTS_STEP;
			if (turn++ % all == me)
				flip_one(w, t);
		}
	}
	rm_tree(w->f.dir);
}

static void every_byte_is_harmless_repaired_or_refused(void **state)
{
	struct fixture *f = *state;
	struct sweep w = {0};
	const char *sweep = getenv("SWEEP"), *procs = getenv("SWEEP_PROCS");
	unsigned n = procs ? (unsigned)atoi(procs) : 2;
	struct tally *t =
		mmap(NULL, sizeof(*t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	size_t bytes = 0;

	assert_true(t != MAP_FAILED);
	make_store(f);
	learn_names(&w, f);
	load_files(&w, f->dir, "");
	fflush(NULL);
	for (unsigned i = 0; i < n; i++) {
		pid_t pid = fork();

		if (pid == 0) {
			work(&w, i, n, sweep && strcmp(sweep, "all") == 0, t);
			_exit(0);
		}
	}
	for (unsigned i = 0; i < n; i++) {
		int status;

		assert_true(wait(&status) > 0);
		assert_int_equal(status, 0);
	}
	for (size_t i = 0; i < w.nfiles; i++) {
		const unsigned *v = t->n[i];

		bytes += w.files[i].len;
		printf("# %-28s %6zu bytes, %6u flipped: %6u harmless, %6u repaired, %6u refused "
		       "and healed\n",
		       w.files[i].path, w.files[i].len, v[0] + v[1] + v[2], v[0], v[1], v[2]);
		free(w.files[i].bytes);
	}
	for (size_t i = 0; i < w.nknown; i++)
		free(w.known[i].text.p);
	printf("# %zu bytes in %zu files\n", bytes, w.nfiles);
	unsigned failed = t->failed;
	munmap(t, sizeof(*t));
	if (failed)
		fail_msg("%u flips did harm, or were not told rightly", failed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(every_byte_is_harmless_repaired_or_refused,
						fixture_setup, fixture_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
