/*
 * System calls that fail: EIO, a full disk, short reads and writes, the process's end before a call
 * and in the middle of a write, at every call of every operation on a store. After each: success,
 * or an error of one line; what was acknowledged before is there byte for byte; the operation
 * happened or did not; the store checks clean, and the operation goes through once the fault is
 * over. By turns that is seen at once, after a repair, and after a repair behind an opening for
 * writing, which cleans up.
 *
 *   test_store_faults           every FAULT_STRIDE-th (7) call, beginning at a random one
 *   FAULT_STRIDE=1              every call; and then also faults that stay
 *
 * And the order of the calls: at each acknowledgement nothing of the store is unsynced, which the
 * test notices when a sync is left out.
 */
#include "fault_shim.h"
#include "store_model.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

static const char *const fault_words[SHIM_FAULTS] = {
	"none", "EIO", "ENOSPC", "short", "kill", "torn write",
};

struct work {
	struct fixture f; /* dir: scratch; no store open */
	char base[80], dir[80];
	struct model before, after;
	struct model_op op; /* that leads from one to the other, if any does */
	uint8_t *buf;
	unsigned turn; /* how what is left is looked at */
};

/* An operation. Without `op` the state stays. */
struct scene {
	const char *word;
	int (*run)(struct smfs_store *s, const struct work *w, struct err *err);
	unsigned op; /* enum model_kind, or MODEL_KINDS */
	bool makes;  /* init: there is no store before */
	/* Shell, in the store: what is damaged before. The process does not open the store. */
	const char *repairs;
};

/* What the faulty process tells. */
struct told {
	int ret, again; /* of the operation, and of a second try on the same handle without fault */
	bool opened;
	uint64_t calls;
	char msg[ERR_MSG_MAX], again_msg[ERR_MSG_MAX];
	uint8_t what[SHIM_CALLS_MAX];
};

static int run_change(struct smfs_store *s, const struct work *w, struct err *err)
{
	return model_run(s, &w->before, &w->op, w->buf, err);
}

static int run_read(struct smfs_store *s, const struct work *w, struct err *err)
{
	return model_check(s, &w->before, w->buf, err);
}

static int run_fsck(struct smfs_store *s, const struct work *w, struct err *err)
{
	return model_fsck(s, true, err);
}

static const struct scene scenes[] = {
	{.word = "init", .op = MODEL_KINDS, .makes = true},
	{.word = "put", .run = run_change, .op = MODEL_PUT},
	{.word = "replace", .run = run_change, .op = MODEL_REPLACE},
	{.word = "remove", .run = run_change, .op = MODEL_REMOVE},
	{.word = "rename", .run = run_change, .op = MODEL_RENAME},
	{.word = "gc", .run = run_change, .op = MODEL_GC},
	{.word = "compact", .run = run_change, .op = MODEL_COMPACT},
	{.word = "repair of an index",
	 .op = MODEL_KINDS,
	 .repairs = "dd if=/dev/urandom of=index/data.mdb bs=4096 count=4 seek=4 conv=notrunc "
		    "status=none"},
	/* and a pack whose last frame has its header and not all of its payload */
	{.word = "repair of a journal",
	 .op = MODEL_KINDS,
	 .repairs = "printf lost | dd of=journal bs=1 seek=200 conv=notrunc status=none &&"
		    "for p in packs/*.pack; do dd if=$p bs=4 skip=16 count=18 status=none >>$p; "
		    "done"},
	{.word = "read", .run = run_read, .op = MODEL_KINDS},
	{.word = "fsck", .run = run_fsck, .op = MODEL_KINDS},
};

/* ---- a store to begin with ---- */

static bool sh(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static bool sh(const char *fmt, ...)
{
	char cmd[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	return system(cmd) == 0;
}

/* With what a dead writer leaves, so that opening has something to clean. */
static void make_base(struct work *w)
{
	struct fixture *f = &w->f;

	w->before = (struct model){.seed = 42};
	ok(f, smfs_store_init(w->base, &f->err));
	ok(f, smfs_store_open(w->base, 0, &f->s, &f->err));
	while (w->before.done < 7) {
		/* names used and free, and frames that no name needs any more */
		unsigned kind = w->before.done < 4 ? MODEL_PUT : MODEL_REPLACE + w->before.done % 2;
		struct model_op op = model_next(&w->before, kind);

		ok(f, model_run(f->s, &w->before, &op, w->buf, &f->err));
		model_apply(&w->before, &op);
	}
	smfs_store_close(f->s);
	f->s = NULL;
	assert_true(sh("cd %s && for p in packs/*.pack; do head -c 5000 /dev/urandom >>$p; done &&"
		       "cp $p packs/00000000000000aa.pack && cp $p tmp/00000000000000ab.pack &&"
		       "head -c 100 /dev/urandom >>journal",
		       w->base));
}

static int setup(void **state)
{
	const char *tmp = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
	struct work *w = calloc(1, sizeof(*w));

	*state = w;
	snprintf(w->f.dir, sizeof(w->f.dir), "%s/smfs-faults.XXXXXX", tmp);
	w->buf = malloc(MODEL_BYTES);
	if (!w->buf || !mkdtemp(w->f.dir))
		return -1;
	snprintf(w->base, sizeof(w->base), "%s/base", w->f.dir);
	snprintf(w->dir, sizeof(w->dir), "%s/store", w->f.dir);
	make_base(w);
	return 0;
}

static int teardown(void **state)
{
	struct work *w = *state;

	rm_tree(w->f.dir);
	free(w->buf);
	free(w);
	return 0;
}

static void begin(struct work *w, const struct scene *sc)
{
	rm_tree(w->dir);
	if (sc->makes)
		assert_int_equal(mkdir(w->dir, 0700), 0);
	else
		assert_true(sh("cp -a %s %s", w->base, w->dir));
	if (sc->repairs)
		assert_true(sh("cd %s && %s", w->dir, sc->repairs));
	w->after = w->before;
	if (sc->op < MODEL_KINDS) {
		w->op = model_next(&w->before, sc->op);
		assert_int_equal(w->op.kind, sc->op);
		model_apply(&w->after, &w->op);
	}
}

/* ---- the process with the fault ---- */

static int attempt(const struct work *w, const struct scene *sc, struct smfs_store *s,
		   struct err *err)
{
	struct smfs_fsck k = {0};

	return sc->makes     ? smfs_store_init(w->dir, err)
	       : sc->repairs ? smfs_repair(w->dir, &k, err)
			     : sc->run(s, w, err);
}

_Noreturn static void faulty(const struct work *w, const struct scene *sc, struct told *t)
{
	struct err err = ERR_INIT, again = ERR_INIT;
	struct smfs_store *s = NULL;

	shim_root(w->dir);
	atomic_store(&shim.armed, true);
	if (!sc->makes && !sc->repairs)
		t->ret = smfs_store_open(w->dir, 0, &s, &err);
	t->opened = t->ret == 0;
	if (t->opened)
		t->ret = attempt(w, sc, s, &err);
	t->calls = atomic_load(&shim.count);
	shim.fault = SHIM_NONE;
	if (t->ret < 0) {
		snprintf(t->msg, sizeof(t->msg), "%s", err.msg);
		if (t->opened) {
			t->again = attempt(w, sc, s, &again);
			snprintf(t->again_msg, sizeof(t->again_msg), "%s", again.msg);
		}
	}
	smfs_store_close(s);
	_exit(0);
}

/* The wait status. */
static int run_faulty(const struct work *w, const struct scene *sc, struct told *t)
{
	int status;

	t->ret = t->again = 0;
	t->opened = false;
	pid_t pid = model_fork();
	if (pid == 0)
		faulty(w, sc, t);
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

/* ---- what it left ---- */

struct verdict {
	bool ok, applied;
	char msg[ERR_MSG_MAX];
};

static int inspect(const struct work *w, const struct scene *sc, struct verdict *v, struct err *err)
{
	struct err not_before = ERR_INIT;
	struct smfs_fsck k = {0};
	struct smfs_store *s;
	int r;

	if (sc->makes && (r = smfs_store_init(w->dir, err)) < 0 && r != -EEXIST)
		return r;
	if (!sc->makes && !sc->repairs && w->turn == 2) {
		if ((r = smfs_store_open(w->dir, 0, &s, err)) < 0)
			return r;
		smfs_store_close(s);
	}
	/* Cut short, a repair is begun again. */
	if (!sc->makes && (sc->repairs || w->turn) && (r = smfs_repair(w->dir, &k, err)) < 0)
		return r;
	/* A damaged index cannot tell what the journal's torn end was. */
	if (k.guesses && !sc->repairs)
		return err_set(err, EBADMSG, "the repair had to guess");
	if ((r = smfs_store_open(w->dir, 0, &s, err)) < 0)
		return r;
	r = model_fsck(s, false, err);
	if (r == 0 && !sc->makes) {
		v->applied = model_check(s, &w->before, w->buf, &not_before) < 0;
		if (v->applied)
			r = model_check(s, &w->after, w->buf, err);
		else if (sc->op < MODEL_KINDS)
			r = sc->run(s, w, err);
		if (r == 0)
			r = model_check(s, &w->after, w->buf, err);
		if (r == 0)
			r = model_fsck(s, false, err);
	}
	smfs_store_close(s);
	return r;
}

/* In a process of its own: what a fault broke may break who looks at it. */
static void look(const struct work *w, const struct scene *sc, struct verdict *v)
{
	int status;

	*v = (struct verdict){0};
	pid_t pid = model_fork();
	if (pid == 0) {
		struct err err = ERR_INIT;

		v->ok = inspect(w, sc, v, &err) == 0;
		snprintf(v->msg, sizeof(v->msg), "%s", err.msg);
		_exit(0);
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (status)
		snprintf(v->msg, sizeof(v->msg), "died with status %#x", status);
}

/* ---- the test ---- */

static bool one_line(const char *msg)
{
	return *msg && !strchr(msg, '\n') && strstr(msg, ": ");
}

static void inject_one(struct work *w, const struct scene *sc, enum shim_fault fault, uint64_t at,
		       bool sticky, struct told *t, struct verdict *v)
{
	char what[96];

	begin(w, sc);
	shim.fault = fault;
	shim.at = at;
	shim.sticky = sticky;
	int status = run_faulty(w, sc, t);
	shim.fault = SHIM_NONE;
	snprintf(what, sizeof(what), "%s, %s%s at call %" PRIu64, sc->word, fault_words[fault],
		 sticky ? " from there on" : "", at);
	if (fault >= SHIM_KILL) {
		if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
			fail_msg("%s: status %#x", what, status);
		t->ret = -EINTR;
		snprintf(t->msg, sizeof(t->msg), "killed");
	} else {
		if (status)
			fail_msg("%s: died with status %#x", what, status);
		if (t->ret < 0 && !one_line(t->msg))
			fail_msg("%s: the error reads \"%s\"", what, t->msg);
		if (fault == SHIM_ENOSPC && t->ret < 0 && t->ret != -ENOSPC)
			fail_msg("%s: a full disk became %d: %s", what, t->ret, t->msg);
		if (fault == SHIM_SHORT && t->ret < 0 && !sticky &&
		    !(t->what[at - 1] & (CALL_READ | CALL_WRITE)))
			fail_msg("%s: %s", what, t->msg);
	}
	w->turn = (unsigned)(at + fault) % 3;
	look(w, sc, v);
	if (!v->ok)
		fail_msg("%s (%s): afterwards, turn %u: %s", what, t->ret < 0 ? t->msg : "success",
			 w->turn, v->msg);
	if (t->ret == 0 && memcmp(w->before.slot, w->after.slot, sizeof(w->before.slot)) &&
	    !v->applied)
		fail_msg("%s: success, but it did not happen", what);
	/* A handle stays of use, unless what failed has happened all the same. */
	if (t->opened && t->ret < 0 && fault < SHIM_KILL && t->again < 0 && t->again != -EEXIST &&
	    t->again != -ENOENT)
		fail_msg("%s (%s): again, without fault: %s", what, t->msg, t->again_msg);
}

static void every_fault_of(struct work *w, const struct scene *sc, unsigned stride, unsigned first,
			   struct told *t, struct verdict *v)
{
	cleanup_free uint8_t *what = malloc(SHIM_CALLS_MAX);
	unsigned runs = 0, errors = 0;

	/* how many calls there are, and what each is */
	begin(w, sc);
	shim.calls = t->what;
	shim.fault = SHIM_NONE;
	shim.at = 0;
	assert_int_equal(run_faulty(w, sc, t), 0);
	if (t->ret < 0)
		fail_msg("%s: %s", sc->word, t->msg);
	uint64_t calls = t->calls;
	assert_true(calls > 0 && calls <= SHIM_CALLS_MAX);
	memcpy(what, t->what, calls);
	for (uint64_t at = 1 + first % stride; at <= calls; at += stride)
		for (int fault = SHIM_EIO; fault < SHIM_FAULTS; fault++)
			for (int sticky = 0; sticky <= (stride == 1 && fault <= SHIM_ENOSPC);
			     sticky++) {
				if (!shim_applies(fault, what[at - 1]))
					continue;
				inject_one(w, sc, fault, at, sticky, t, v);
				runs++;
				errors += t->ret < 0;
			}
	printf("# %s: %" PRIu64 " calls, %u faults, %u times an error\n", sc->word, calls, runs,
	       errors);
}

static void faults_leave_the_acknowledged_whole(void **state)
{
	struct work *w = *state;
	const char *env = getenv("FAULT_STRIDE");
	unsigned stride = env ? (unsigned)atoi(env) : 7, seed = (unsigned)time(NULL);
	struct told *t =
		mmap(NULL, sizeof(*t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct verdict *v =
		mmap(NULL, sizeof(*v), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_true(t != MAP_FAILED && v != MAP_FAILED && stride > 0);
	for (size_t i = 0; i < ARRAY_SIZE(scenes); i++)
		every_fault_of(w, &scenes[i], stride, seed + (unsigned)i * 5, t, v);
	munmap(t, sizeof(*t));
	munmap(v, sizeof(*v));
}

/* ---- order ---- */

/* Many operations; false: something was unsynced when one was acknowledged, or an error. */
static bool run_in_order(const struct work *w)
{
	struct model m = {.seed = 7};
	struct err err = ERR_INIT;
	struct smfs_store *s;
	bool good = true;
	int r = smfs_store_init(w->dir, &err);

	for (int life = 0; life < 3 && r == 0; life++) {
		good &= shim_unsynced() == 0;
		r = smfs_store_open(w->dir, 0, &s, &err);
		if (r == 0)
			smfs_store_unpin(s);
		for (int i = 0; i < 30 && r == 0; i++) {
			struct model_op op = model_next(&m, MODEL_KINDS);

			r = model_run(s, &m, &op, w->buf, &err);
			model_apply(&m, &op);
			if (shim_unsynced() == 0 && !*shim.early)
				continue;
			fprintf(stderr, "# after %s: %s\n", model_words[op.kind], shim.early);
			good = false;
		}
		if (r == 0)
			smfs_store_close(s);
	}
	if (r < 0)
		fprintf(stderr, "# %s\n", err.msg);
	return good && r == 0;
}

static bool order_holds(struct work *w, unsigned skip, bool quiet)
{
	int status;

	rm_tree(w->dir);
	assert_int_equal(mkdir(w->dir, 0700), 0);
	pid_t pid = model_fork();
	if (pid == 0) {
		if (quiet)
			stderr = fopen("/dev/null", "w");
		shim_root(w->dir);
		shim.skip = skip;
		shim.track = true;
		atomic_store(&shim.armed, true);
		_exit(!run_in_order(w));
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) <= 1);
	return status == 0;
}

static void all_is_synced_when_acknowledged(void **state)
{
	assert_true(order_holds(*state, 0, false));
}

static void a_sync_left_out_is_seen(void **state)
{
	static const unsigned classes[] = {SYNC_PACK,  SYNC_PACKS_DIR, SYNC_JOURNAL,
					   SYNC_INDEX, SYNC_META,      SYNC_OTHER};

	for (size_t i = 0; i < ARRAY_SIZE(classes); i++)
		if (order_holds(*state, classes[i], true))
			fail_msg("without the syncs of class %u nothing was missed", classes[i]);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(all_is_synced_when_acknowledged, setup, teardown),
		cmocka_unit_test_setup_teardown(a_sync_left_out_is_seen, setup, teardown),
		cmocka_unit_test_setup_teardown(faults_leave_the_acknowledged_whole, setup,
						teardown),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
