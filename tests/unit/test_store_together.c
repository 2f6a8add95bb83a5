/*
 * Everything at once on one handle: ingests, replacements, removals and renames in two lanes,
 * readers under leases, collection and compaction without pause, checks that read every frame, and
 * mounts that come and go, with readers of their own and a third lane that is changed through them.
 * No check finds anything, no reader sees a content that is not whole, and at the end the store
 * holds what the models say. With all names gone, a collection leaves nothing.
 *
 *   test_store_together         for TOGETHER_SECONDS (5); meant for SAN=thread, too
 */
#include "store_mounted.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "smfs/mount/mount.h"

#define LANES		2 /* of the store; one more is the mount's */
#define READERS		2 /* of each mount */
#define MOUNTED_CHANGES 40
#define PATIENCE_S	60 /* beyond the time, for all of it to have happened once */

struct shared {
	struct smfs_store *s;
	struct model lane[LANES + 1];
	char mnt[64]; /* "": nothing can be mounted here */
	atomic_bool stop, failed, unmount;
	atomic_uint changes, reads, collections, checks, freed, mounts, mounted_reads,
		mounted_changes;
	char why[ERR_MSG_MAX + 64]; /* of the first failure */
	pthread_mutex_t lock;
};

struct actor {
	struct shared *sh;
	unsigned n;
	pthread_t thread;
};

static void failed(struct shared *sh, const char *what, const struct err *err)
{
	pthread_mutex_lock(&sh->lock);
	if (!atomic_exchange(&sh->failed, true))
		snprintf(sh->why, sizeof(sh->why), "%s: %s", what, err->msg);
	pthread_mutex_unlock(&sh->lock);
	atomic_store(&sh->stop, true);
}

static void *change(void *arg)
{
	struct actor *a = arg;
	struct model *m = &a->sh->lane[a->n];
	cleanup_free uint8_t *buf = malloc(MODEL_BYTES);
	struct err err = ERR_INIT;

	while (!atomic_load(&a->sh->stop)) {
		struct model_op op = model_next(m, MODEL_KINDS);

		if (model_run(a->sh->s, m, &op, buf, &err) < 0) {
			failed(a->sh, model_words[op.kind], &err);
			break;
		}
		model_apply(m, &op);
		atomic_fetch_add(&a->sh->changes, 1);
	}
	return NULL;
}

/* A content says itself which one it is: the note of the tree has the key. */
static int read_key(struct smfs_store *s, const struct smfs_id *root, uint64_t *key,
		    struct err *err)
{
	struct smfs_dir *top, *sub;
	const struct smfs_entry *e;
	struct smfs_file *f;
	char note[32] = "";
	int r = smfs_dir_open(s, root, &top, err);

	if (r < 0)
		return r;
	e = smfs_dir_find(top, "sub");
	r = e ? smfs_dir_open(s, &e->dir, &sub, err) : err_set(err, EBADMSG, "no sub");
	smfs_dir_close(top);
	if (r < 0)
		return r;
	e = smfs_dir_find(sub, "note");
	r = e ? smfs_file_open(s, &e->content, &f, err) : err_set(err, EBADMSG, "no note");
	smfs_dir_close(sub);
	if (r < 0)
		return r;
	ssize_t n = smfs_file_pread(f, note, sizeof(note) - 1, 0, err);
	smfs_file_close(f);
	*key = strtoull(note, NULL, 16);
	return n < 0 ? (int)n : 0;
}

static int read_one(struct smfs_store *s, const char *name, uint8_t *buf, struct err *err)
{
	struct smfs_name n;
	smfs_lease lease = 0;
	uint64_t key;
	int r = smfs_lease_name(s, SMFS_SNAPSHOT, name, &n, &lease, err);

	if (r == -ENOENT)
		return 0;
	if (r == 0)
		r = read_key(s, &n.root, &key, err);
	if (r == 0)
		r = model_tree(s, name, &n.root, key, buf, err);
	smfs_lease_drop(s, lease);
	return r < 0 ? r : 1;
}

static void *read_always(void *arg)
{
	struct actor *a = arg;
	cleanup_free uint8_t *buf = malloc(MODEL_BYTES);
	struct err err = ERR_INIT;
	uint64_t x = a->n + 77;
	char name[32];

	while (!atomic_load(&a->sh->stop)) {
		struct model any = {.lane = (unsigned)(rnd(&x) % LANES)};

		model_name(&any, (unsigned)(rnd(&x) % MODEL_SLOTS), name);
		int r = read_one(a->sh->s, name, buf, &err);
		if (r < 0) {
			failed(a->sh, "read", &err);
			break;
		}
		atomic_fetch_add(&a->sh->reads, (unsigned)r);
	}
	return NULL;
}

static void *collect(void *arg)
{
	struct actor *a = arg;
	struct err err = ERR_INIT;

	for (unsigned i = 0; !atomic_load(&a->sh->stop); i++) {
		struct smfs_gc g = {.compact_percent = i % 2 ? 1 : SMFS_GC_COMPACT_DEFAULT};
		int r = smfs_gc(a->sh->s, 0, &g, &err);

		if (r < 0 && r != -EBUSY) {
			failed(a->sh, "gc", &err);
			break;
		}
		atomic_fetch_add(&a->sh->collections, r == 0);
		atomic_fetch_add(&a->sh->freed, (unsigned)g.freed_frames);
	}
	return NULL;
}

static void *check(void *arg)
{
	struct actor *a = arg;
	struct err err = ERR_INIT;

	while (!atomic_load(&a->sh->stop)) {
		int r = model_fsck(a->sh->s, false, &err);

		if (r < 0 && r != -EBUSY) {
			failed(a->sh, "fsck", &err);
			break;
		}
		atomic_fetch_add(&a->sh->checks, r == 0);
		/* collections wait for checks */
		usleep(20000);
	}
	return NULL;
}

/* ---- mounts ---- */

static void *read_mounted(void *arg)
{
	struct actor *a = arg;
	cleanup_free uint8_t *buf = malloc(MODEL_BYTES);
	struct err err = ERR_INIT;
	uint64_t x = a->n + 99;
	char name[32];

	while (!atomic_load(&a->sh->unmount)) {
		struct model any = {.lane = (unsigned)(rnd(&x) % LANES)};

		model_name(&any, (unsigned)(rnd(&x) % MODEL_SLOTS), name);
		int r = mounted_tree(a->sh->mnt, name, buf, &err);
		if (r < 0) {
			failed(a->sh, name, &err);
			break;
		}
		atomic_fetch_add(&a->sh->mounted_reads, (unsigned)r);
	}
	return NULL;
}

static int change_mounted(struct shared *sh, uint8_t *buf, struct err *err)
{
	struct model *m = &sh->lane[LANES];
	struct model_op op = model_next(m, MODEL_KINDS);
	int r = mounted_run(sh->mnt, m, &op, buf, err);

	if (r < 0)
		return err_wrap(err, r, "%s through the mount", model_words[op.kind]);
	model_apply(m, &op);
	for (unsigned i = 0; i < MODEL_SLOTS && r == 0; i++)
		r = mounted_check_slot(sh->mnt, m, i, buf, err);
	atomic_fetch_add(&sh->changes, 1);
	atomic_fetch_add(&sh->mounted_changes, 1);
	return r;
}

static int mount_once(struct shared *sh, unsigned flags, uint8_t *buf, struct err *err)
{
	struct actor reader[READERS];
	struct smfs_mount *m;
	int r = smfs_mount_store(sh->s, sh->mnt, flags, &m, err);

	if (r < 0)
		return r;
	atomic_store(&sh->unmount, false);
	for (unsigned i = 0; i < READERS; i++) {
		reader[i] = (struct actor){.sh = sh, .n = i};
		assert_int_equal(pthread_create(&reader[i].thread, NULL, read_mounted, &reader[i]),
				 0);
	}
	for (unsigned i = 0; i < MOUNTED_CHANGES && r == 0 && !atomic_load(&sh->stop); i++)
		r = change_mounted(sh, buf, err);
	atomic_store(&sh->unmount, true);
	for (unsigned i = 0; i < READERS; i++)
		pthread_join(reader[i].thread, NULL);
	smfs_mount_stop(m);
	return r;
}

static void *mount_always(void *arg)
{
	static const unsigned flags[] = {0, SMFS_MOUNT_NEVER_HOT, SMFS_MOUNT_ALWAYS_HOT};
	struct actor *a = arg;
	cleanup_free uint8_t *buf = malloc(MODEL_BYTES);
	struct err err = ERR_INIT;

	for (unsigned i = 0; a->sh->mnt[0] && !atomic_load(&a->sh->stop); i++) {
		if (mount_once(a->sh, flags[i % ARRAY_SIZE(flags)], buf, &err) < 0) {
			failed(a->sh, "mount", &err);
			break;
		}
		atomic_fetch_add(&a->sh->mounts, 1);
	}
	return NULL;
}

/* Each has had its turn. Only a collection that has seen what others pinned before frees anything.
 */
static bool has_all(const struct shared *sh)
{
	return sh->changes > 0 && sh->reads > 0 && sh->collections > 0 && sh->checks > 0 &&
	       sh->freed > 0 &&
	       (!sh->mnt[0] ||
		(sh->mounts > 0 && sh->mounted_reads > 0 && sh->mounted_changes > 0));
}

static void run_all(struct shared *sh, unsigned seconds)
{
	void *(*const what[])(void *) = {change,  change, read_always, read_always,
					 collect, check,  mount_always};
	struct actor actor[ARRAY_SIZE(what)];
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += seconds;
	for (unsigned i = 0; i < ARRAY_SIZE(what); i++) {
		actor[i] = (struct actor){.sh = sh, .n = i};
		assert_int_equal(pthread_create(&actor[i].thread, NULL, what[i], &actor[i]), 0);
	}
	while (!atomic_load(&sh->stop)) {
		struct timespec now;

		clock_gettime(CLOCK_MONOTONIC, &now);
		if (now.tv_sec >= until.tv_sec + (has_all(sh) ? 0 : PATIENCE_S))
			break;
		usleep(50000);
	}
	atomic_store(&sh->stop, true);
	for (unsigned i = 0; i < ARRAY_SIZE(what); i++)
		pthread_join(actor[i].thread, NULL);
}

/* Nothing is left of a store whose names are gone. */
static void empty_it(struct fixture *f, struct shared *sh)
{
	struct smfs_store_stat st;
	char name[32];

	for (unsigned i = 0; i <= LANES; i++)
		for (unsigned slot = 0; slot < MODEL_SLOTS; slot++) {
			model_name(&sh->lane[i], slot, name);
			if (sh->lane[i].slot[slot])
				ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, name, &f->err));
		}
	/* one finds what is unreachable, one frees it, one gives the packs back */
	for (int i = 0; i < 3; i++) {
		struct smfs_gc g = {.compact_percent = 1};

		ok(f, smfs_gc(f->s, 0, &g, &f->err));
	}
	ok(f, smfs_store_stat(f->s, &st, &f->err));
	assert_int_equal(st.snapshots, 0);
	assert_int_equal(st.chunks, 0);
	assert_int_equal(st.packs, 0);
}

static void agrees(struct fixture *f, struct shared *sh)
{
	cleanup_free uint8_t *buf = malloc(MODEL_BYTES);

	for (unsigned i = 0; i < LANES; i++)
		ok(f, model_check(f->s, &sh->lane[i], buf, &f->err));
	ok(f, mounted_check_store(f->s, &sh->lane[LANES], buf, &f->err));
}

static void all_at_once(void **state)
{
	struct fixture *f = *state;
	struct shared sh = {.s = f->s, .lock = PTHREAD_MUTEX_INITIALIZER};
	const char *env = getenv("TOGETHER_SECONDS");
	bool can_mount = geteuid() == 0 && access("/dev/fuse", R_OK | W_OK) == 0;

	if (can_mount) {
		strcpy(sh.mnt, "/tmp/smfs-mount.XXXXXX");
		assert_non_null(mkdtemp(sh.mnt));
	}
	smfs_store_unpin(f->s);
	for (unsigned i = 0; i <= LANES; i++)
		sh.lane[i] = (struct model){.seed = (uint64_t)time(NULL), .lane = i};
	run_all(&sh, env ? (unsigned)atoi(env) : 5);
	rmdir(sh.mnt);
	if (atomic_load(&sh.failed))
		fail_msg("%s", sh.why);
	printf("# %u changes, %u reads, %u collections that freed %u frames, %u checks\n",
	       sh.changes, sh.reads, sh.collections, sh.freed, sh.checks);
	printf("# %u mounts, %u reads through them, %u changes through them\n", sh.mounts,
	       sh.mounted_reads, sh.mounted_changes);
	assert_true(has_all(&sh));
	ok(f, model_fsck(f->s, false, &f->err));
	agrees(f, &sh);
	reopen(f, 0);
	agrees(f, &sh);
	smfs_store_unpin(f->s);
	empty_it(f, &sh);
	if (!can_mount) {
		printf("# without mounts: they need root and /dev/fuse\n");
		skip();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(all_at_once, fixture_setup, fixture_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
