/*
 * Garbage collection: what is unused goes, what anybody needs stays. Beside plain cases, a model:
 * threads and processes that publish, replace, remove, read and collect at random over a small
 * pool of shared content, each with a plain map of what its names should hold; and collections
 * killed at random moments. SMFS_GC_SECONDS: how long the random tests go on (3).
 */
#include "tests/unit/gc_util.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

static uint64_t disk(struct fixture *f)
{
	struct smfs_store_stat st;

	ok(f, smfs_store_stat(f->s, &st, &f->err));
	return st.stored_bytes;
}

static void test_frees_what_is_removed(void **state)
{
	struct fixture *f = *state;
	struct smfs_gc g;

	put(f, "keep", 1, 10 * BLOCK + 5);
	put(f, "drop", 2, 10 * BLOCK);
	ok(f, collect(f, &g, 25));
	assert_int_equal(g.condemned_frames, 0);
	uint64_t before = disk(f);
	ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "drop", &f->err));

	g = (struct smfs_gc){.compact_percent = 25};
	ok(f, smfs_gc(f->s, SMFS_GC_DRY_RUN, &g, &f->err));
	assert_int_equal(g.condemned_frames, 12); /* ten chunks, a map leaf and a directory */
	assert_int_equal(g.packs_compacted, 1);
	assert_int_equal(disk(f), before);

	ok(f, collect(f, &g, 25));
	assert_int_equal(g.freed_frames, 12);
	assert_int_equal(g.packs_compacted, 1);
	assert_true(g.returned_bytes > 9 * BLOCK);
	assert_true(disk(f) < before - 9 * BLOCK);
	holds(f, "keep", 1, 10 * BLOCK + 5);
	fsck_clean(f);

	ok(f, collect(f, &g, 25));
	assert_int_equal(g.condemned_frames + g.freed_frames + g.returned_bytes, 0);
	ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "keep", &f->err));
	ok(f, collect(f, &g, 101));
	assert_int_equal(g.packs_removed, 1);
	assert_int_equal(disk(f), 0);
	fsck_clean(f);
	put(f, "again", 1, 10 * BLOCK + 5);
	holds(f, "again", 1, 10 * BLOCK + 5);
}

/* An ingest finds content that is garbage already, and a collection comes before its commit. */
static void test_ingest_takes_garbage_back(void **state)
{
	struct fixture *f = *state;
	cleanup_free uint8_t *p = content(7, 6 * BLOCK);
	struct smfs_ingest *ing;
	struct smfs_content c;
	struct smfs_gc g;

	put(f, "old", 7, 6 * BLOCK);
	ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "old", &f->err));
	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	ok(f, smfs_ingest_mem(ing, p, 6 * BLOCK, &c, &f->err));
	ok(f, collect(f, &g, 1));
	assert_int_equal(g.condemned_frames, 8);
	assert_int_equal(g.freed_frames, 0);
	assert_int_equal(g.waiting_frames, 8);
	read_equals(f, &c, p, 6 * BLOCK);
	stage_file(f, ing, "new", &c, 0);
	ok(f, smfs_ingest_commit(ing, &f->err));
	holds(f, "new", 7, 6 * BLOCK);
	ok(f, collect(f, &g, 1));
	assert_int_equal(g.condemned_frames, 0);
	holds(f, "new", 7, 6 * BLOCK);
	fsck_clean(f);
}

/* The same for one that does not put the content but refers to what it knows is there. */
static void test_ingest_refers_to_garbage(void **state)
{
	struct fixture *f = *state;
	struct smfs_ingest *ing;
	struct smfs_content c;
	struct smfs_name n;
	struct smfs_gc g;

	put(f, "old", 8, 600 * BLOCK);
	ok(f, get_snapshot(f, "old", &c));
	ok(f, smfs_name_get(f->s, SMFS_SNAPSHOT, "old", &n, &f->err));
	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "old", &f->err));
	ok(f, collect(f, &g, 1));
	stage_file(f, ing, "by-content", &c, 0);
	ok(f, smfs_ingest_name(ing, SMFS_SNAPSHOT, "by-root", &n.root, NULL, 0, &f->err));
	ok(f, collect(f, &g, 1));
	assert_int_equal(g.freed_frames, 0);
	ok(f, smfs_ingest_commit(ing, &f->err));
	ok(f, collect(f, &g, 1));
	holds(f, "by-content", 8, 600 * BLOCK);
	holds(f, "by-root", 8, 600 * BLOCK);
	fsck_clean(f);
}

/* A diff refers to its base's leaves and chunks, whatever becomes of the base's name. */
static void test_diff_of_garbage(void **state)
{
	struct fixture *f = *state;
	const size_t len = 600 * BLOCK;
	cleanup_free uint8_t *p = content(11, len);
	struct smfs_ingest *ing;
	struct smfs_stream *st;
	struct smfs_content base, c;
	struct smfs_gc g;

	put(f, "base", 11, len);
	ok(f, get_snapshot(f, "base", &base));
	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "base", &f->err));
	ok(f, smfs_stream_open_diff(ing, &base, SMFS_STREAM_CHANGED, &st, &f->err));
	/* A page of the first span is new, the second span is the base's. */
	fill_random(p + 5 * BLOCK + 4096, 4096, 12);
	ok(f, smfs_stream_same(st, 5 * BLOCK + 4096, &f->err));
	ok(f, smfs_stream_write(st, p + 5 * BLOCK + 4096, 4096, &f->err));
	ok(f, collect(f, &g, 1));
	assert_int_equal(g.condemned_frames, 605); /* with three leaves, a node, a directory */
	ok(f, smfs_stream_same(st, len - 5 * BLOCK - 8192, &f->err));
	ok(f, smfs_stream_finish(st, &c, &f->err));
	stage_file(f, ing, "diff", &c, 0);
	ok(f, collect(f, &g, 1));
	assert_int_equal(g.freed_frames, 0);
	ok(f, smfs_ingest_commit(ing, &f->err));
	ok(f, collect(f, &g, 1));
	reopen(f, 0);
	read_equals(f, &c, p, len);
	ok(f, collect(f, &g, 1));
	read_equals(f, &c, p, len);
	fsck_clean(f);
}

static void test_lease_keeps_a_removed_name(void **state)
{
	struct fixture *f = *state;
	cleanup_free uint8_t *p = content(9, 5 * BLOCK);
	struct smfs_content c;
	struct smfs_name n;
	struct smfs_gc g;
	smfs_lease lease;

	put(f, "x", 9, 5 * BLOCK);
	put(f, "y", 10, 1 * BLOCK);
	ok(f, get_snapshot(f, "x", &c));
	ok(f, smfs_lease_name(f->s, SMFS_SNAPSHOT, "x", &n, &lease, &f->err));
	ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "x", &f->err));
	ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "y", &f->err));
	ok(f, collect(f, &g, 1));
	assert_int_equal(g.leased_roots, 1);
	assert_int_equal(g.freed_frames, 2);
	assert_int_equal(g.packs_compacted, 1); /* what is leased may move */
	read_equals(f, &c, p, 5 * BLOCK);
	smfs_lease_drop(f->s, lease);
	ok(f, collect(f, &g, 1));
	assert_int_equal(g.freed_frames, 7);
	assert_int_equal(disk(f), 0);
	assert_int_equal(smfs_lease_name(f->s, SMFS_SNAPSHOT, "x", &n, &lease, &f->err), -ENOENT);
}

/* More leases than a first file has slots for, given back in another order. */
static void test_many_leases(void **state)
{
	struct fixture *f = *state;
	enum { N = 9000 };
	smfs_lease *v = calloc(N, sizeof(*v));
	struct smfs_name n;
	struct smfs_gc g;

	put(f, "x", 3, 100);
	for (int i = 0; i < N; i++)
		ok(f, smfs_lease_name(f->s, SMFS_SNAPSHOT, "x", &n, &v[i], &f->err));
	ok(f, collect(f, &g, 1));
	assert_int_equal(g.leased_roots, N);
	for (int i = 0; i < N; i += 2)
		smfs_lease_drop(f->s, v[i]);
	for (int i = 1; i < N; i += 2)
		smfs_lease_drop(f->s, v[i]);
	ok(f, collect(f, &g, 1));
	assert_int_equal(g.leased_roots, 0);
	free(v);
}

/* A child that opens the store, says so, and sleeps until it is killed. */
static pid_t child_with_store(struct fixture *f)
{
	int to[2];
	char byte;

	assert_int_equal(pipe(to), 0);
	pid_t pid = fork();
	if (pid == 0) {
		struct smfs_store *s;

		byte = smfs_store_open(f->dir, SMFS_RDONLY, &s, NULL) == 0 ? 'y' : 'n';
		if (write(to[1], &byte, 1) == 1)
			pause();
		_exit(1);
	}
	close(to[1]);
	assert_int_equal(read(to[0], &byte, 1), 1);
	assert_int_equal(byte, 'y');
	close(to[0]);
	return pid;
}

static void test_other_process_keeps_what_it_found(void **state)
{
	struct fixture *f = *state;
	struct smfs_gc g;

	put(f, "x", 3, 3 * BLOCK);
	pid_t pid = child_with_store(f);
	ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "x", &f->err));
	ok(f, collect(f, &g, 1));
	assert_int_equal(g.condemned_frames, 5);
	assert_int_equal(g.freed_frames, 0);
	assert_int_equal(g.holders, 1);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	ok(f, collect(f, &g, 1));
	assert_int_equal(g.condemned_frames, 0);
	assert_int_equal(g.freed_frames, 5);
	assert_int_equal(g.packs_removed, 1);
}

static void test_damage_stops_it(void **state)
{
	struct fixture *f = *state;
	struct smfs_ingest *ing;
	struct smfs_gc g;
	struct smfs_content c = {.size = 20 * BLOCK, .kind = SMFS_MAP, .depth = 0};
	struct smfs_name n;
	char path[512];

	put(f, "fine", 3, 3 * BLOCK);
	put(f, "hit", 4, 3 * BLOCK);
	put(f, "gone", 5, 3 * BLOCK);
	ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "gone", &f->err));
	ok(f, get_snapshot(f, "hit", &c));
	ok(f, smfs_name_get(f->s, SMFS_SNAPSHOT, "hit", &n, &f->err));
	reopen(f, 0);

	/* The map of "hit", found in the pack by its id, loses a bit. */
	snprintf(path, sizeof(path), "ls %s/packs", f->dir);
	FILE *ls = popen(path, "r");
	char file[64] = "";
	assert_non_null(fgets(file, sizeof(file), ls));
	pclose(ls);
	file[strcspn(file, "\n")] = 0;
	snprintf(path, sizeof(path), "%s/packs/%s", f->dir, file);
	int fd = open(path, O_RDWR);
	struct stat st;
	assert_int_equal(fstat(fd, &st), 0);
	uint8_t *p = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	uint8_t *at = memmem(p, (size_t)st.st_size, c.id.b, 32);
	assert_non_null(at);
	at[60] ^= 4;
	munmap(p, (size_t)st.st_size);
	close(fd);

	assert_int_equal(collect(f, &g, 1), -EBADMSG);
	assert_non_null(strstr(f->err.msg, "hit"));
	assert_int_equal(g.condemned_frames, 0);
	err_clear(&f->err);
	/* Without the damaged name it is known again what is needed. */
	ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "hit", &f->err));
	ok(f, collect(f, &g, 25));
	assert_int_equal(g.freed_frames, 10);
	holds(f, "fine", 3, 3 * BLOCK);
	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	smfs_ingest_abort(ing);
}

/* ---- the model ------------------------------------------------------------------------------ */

#define NAMES  6  /* of each actor */
#define SEEDS  12 /* blocks all actors draw from */
#define BLOCKS 5

struct held {
	bool exists;
	unsigned n;
	uint8_t seed[BLOCKS];
};

struct actor {
	struct fixture f;
	unsigned id;
	uint64_t rng;
	uint64_t commits, removals, reads, collections;
	struct held map[NAMES];
	atomic_bool *stop;
	bool collects;
	uint8_t *want;
};

static void actor_name(const struct actor *a, unsigned i, char out[32])
{
	snprintf(out, 32, "a%u-%u", a->id, i);
}

static void bytes_of(const struct held *h, uint8_t *p)
{
	for (unsigned i = 0; i < h->n; i++)
		fill_random(p + i * BLOCK, BLOCK, 100 + h->seed[i]);
}

/* cmocka's assertions longjmp to the thread that runs the test: actors end the process instead. */
#define must(a, cond, what)                                                                     \
	do {                                                                                    \
		if (!(cond)) {                                                                  \
			fprintf(stderr, "# actor %u: %s: %s\n", (a)->id, what, (a)->f.err.msg); \
			abort();                                                                \
		}                                                                               \
	} while (0)

static void act_publish(struct actor *a, unsigned i)
{
	struct smfs_entry e = {.name = "data", .mode = S_IFREG | 0644, .nlink = 1};
	struct held h = {.exists = true, .n = 1 + (unsigned)(rnd(&a->rng) % BLOCKS)};
	struct smfs_ingest *ing;
	struct smfs_id dir;
	char name[32];

	for (unsigned k = 0; k < h.n; k++)
		h.seed[k] = (uint8_t)(rnd(&a->rng) % SEEDS);
	bytes_of(&h, a->want);
	actor_name(a, i, name);
	must(a, smfs_ingest_begin(a->f.s, &ing, &a->f.err) == 0, "begin");
	must(a, smfs_ingest_mem(ing, a->want, h.n * BLOCK, &e.content, &a->f.err) == 0, "put");
	must(a, smfs_ingest_dir(ing, &e, 1, &dir, &a->f.err) == 0, "dir");
	must(a,
	     smfs_ingest_name(ing, SMFS_SNAPSHOT, name, &dir, NULL, SMFS_REPLACE, &a->f.err) == 0,
	     "name");
	/* Sometimes the collector has time to come between. */
	if (rnd(&a->rng) % 4 == 0)
		nanosleep(&(struct timespec){.tv_nsec = 3000000}, NULL);
	if (rnd(&a->rng) % 8 == 0) {
		smfs_ingest_abort(ing);
		return;
	}
	must(a, smfs_ingest_commit(ing, &a->f.err) == 0, "commit");
	a->map[i] = h;
	a->commits++;
}

static void act_read(struct actor *a, unsigned i)
{
	const struct held *h = &a->map[i];
	uint8_t *got = a->want + BLOCKS * BLOCK;
	struct smfs_file *file;
	struct smfs_dir *d;
	struct smfs_name n;
	char name[32];

	actor_name(a, i, name);
	int r = smfs_name_get(a->f.s, SMFS_SNAPSHOT, name, &n, &a->f.err);
	must(a, h->exists ? r == 0 : r == -ENOENT, name);
	a->reads++;
	if (!h->exists)
		return;
	must(a, smfs_dir_open(a->f.s, &n.root, &d, &a->f.err) == 0, "open directory");
	struct smfs_content c = smfs_dir_at(d, 0)->content;
	smfs_dir_close(d);
	must(a, smfs_file_open(a->f.s, &c, &file, &a->f.err) == 0, "open file");
	bytes_of(h, a->want);
	must(a, smfs_file_pread(file, got, BLOCKS * BLOCK, 0, &a->f.err) == (ssize_t)(h->n * BLOCK),
	     "read");
	must(a, memcmp(a->want, got, h->n * BLOCK) == 0, "compare");
	smfs_file_close(file);
}

static void act_remove(struct actor *a, unsigned i)
{
	char name[32];

	actor_name(a, i, name);
	int r = smfs_name_remove(a->f.s, SMFS_SNAPSHOT, name, &a->f.err);
	must(a, a->map[i].exists ? r == 0 : r == -ENOENT, "remove");
	a->map[i].exists = false;
	a->removals++;
}

static void act_collect(struct actor *a)
{
	struct smfs_gc g = {.compact_percent = 1 + (unsigned)(rnd(&a->rng) % 60)};
	int r = smfs_gc(a->f.s, 0, &g, &a->f.err);

	must(a, r == 0 || r == -EBUSY, "collect");
	a->collections += r == 0;
}

static void *act(void *arg)
{
	struct actor *a = arg;

	a->want = malloc(2 * BLOCKS * BLOCK);
	must(a, a->want, "memory");
	while (!atomic_load(a->stop)) {
		unsigned i = (unsigned)(rnd(&a->rng) % NAMES);

		switch (rnd(&a->rng) % 8) {
		case 0:
		case 1:
			act_publish(a, i);
			break;
		case 2:
		case 3:
			act_remove(a, i);
			break;
		case 4:
			if (a->collects) {
				act_collect(a);
				break;
			}
			/* fall through */
		default:
			act_read(a, i);
		}
	}
	for (unsigned i = 0; i < NAMES; i++)
		act_read(a, i);
	free(a->want);
	return NULL;
}

static unsigned seconds(void)
{
	const char *s = getenv("SMFS_GC_SECONDS");

	return s ? (unsigned)atoi(s) : 3;
}

#define THREADS 3

/* THREADS actors on one handle, of which the first collects. */
static void run_actors(struct fixture *f, unsigned first, struct actor a[THREADS])
{
	pthread_t t[THREADS];
	atomic_bool stop = false;

	for (unsigned i = 0; i < THREADS; i++) {
		a[i] = (struct actor){.f = *f,
				      .id = first + i,
				      .rng = 77 + first + i,
				      .stop = &stop,
				      .collects = i == 0};
		assert_int_equal(pthread_create(&t[i], NULL, act, &a[i]), 0);
	}
	nanosleep(&(struct timespec){.tv_sec = seconds()}, NULL);
	atomic_store(&stop, true);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
}

static void in_child(struct fixture *f, unsigned first)
{
	struct fixture mine = {0};
	struct actor a[THREADS];

	memcpy(mine.dir, f->dir, sizeof(mine.dir));
	if (smfs_store_open(mine.dir, 0, &mine.s, &mine.err) < 0)
		_exit(2);
	run_actors(&mine, first, a);
	smfs_store_close(mine.s);
	_exit(0);
}

#define PROCESSES 2

static void test_model(void **state)
{
	struct fixture *f = *state;
	struct actor a[THREADS];
	pid_t pid[PROCESSES];
	struct smfs_gc g;
	int status;

	smfs_store_close(f->s);
	f->s = NULL;
	for (unsigned i = 0; i < PROCESSES; i++) {
		pid[i] = fork();
		if (pid[i] == 0)
			in_child(f, 100 * (i + 1));
	}
	ok(f, smfs_store_open(f->dir, 0, &f->s, &f->err));
	run_actors(f, 0, a);
	for (unsigned i = 0; i < PROCESSES; i++) {
		assert_int_equal(waitpid(pid[i], &status, 0), pid[i]);
		assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	}
	fprintf(stderr, "# %llu commits, %llu removals, %llu reads, %llu collections\n",
		(unsigned long long)a[1].commits, (unsigned long long)a[1].removals,
		(unsigned long long)a[1].reads, (unsigned long long)a[0].collections);
	assert_true(a[1].commits && a[1].removals && a[1].reads && a[0].collections);
	fsck_clean(f);
	ok(f, collect(f, &g, 1));
	fsck_clean(f);
	ok(f, collect(f, &g, 1));
	assert_int_equal(g.condemned_frames + g.waiting_frames, 0);
	assert_true(g.dead_bytes * 99 <= g.live_bytes);
	/* At most the pool is left: every block once, and each name's nodes. */
	assert_true(g.live_frames <= SEEDS + 2u * NAMES * THREADS * (1 + PROCESSES));
}

/* ---- killed ---------------------------------------------------------------------------------- */

/* The child's map, where the parent sees it after the kill: `next` is what may be under way. */
struct shared_map {
	_Atomic unsigned changing; /* name + 1, 0 = none */
	struct held map[NAMES], next;
};

static void killed_child(struct fixture *f, struct shared_map *m, uint64_t seed)
{
	atomic_bool stop = false;
	struct actor a = {.id = 9, .rng = seed, .stop = &stop};

	memcpy(a.f.dir, f->dir, sizeof(a.f.dir));
	must(&a, smfs_store_open(a.f.dir, 0, &a.f.s, &a.f.err) == 0, "open");
	a.want = malloc(2 * BLOCKS * BLOCK);
	memcpy(a.map, m->map, sizeof(a.map));
	for (;;) {
		unsigned i = (unsigned)(rnd(&a.rng) % NAMES);

		atomic_store(&m->changing, i + 1);
		if (rnd(&a.rng) % 2)
			act_publish(&a, i);
		else
			act_remove(&a, i);
		m->map[i] = a.map[i];
		atomic_store(&m->changing, 0);
		act_collect(&a);
	}
}

static void test_killed_at_any_moment(void **state)
{
	struct fixture *f = *state;
	struct shared_map *m =
		mmap(NULL, sizeof(*m), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct actor a = {.id = 9};
	uint64_t rng = 4711;
	struct timespec now, end;
	struct smfs_gc g;
	unsigned kills = 0;

	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += seconds();
	a.want = malloc(2 * BLOCKS * BLOCK);
	do {
		smfs_store_close(f->s);
		f->s = NULL;
		pid_t pid = fork();
		if (pid == 0)
			killed_child(f, m, rnd(&rng));
		nanosleep(&(struct timespec){.tv_nsec = (long)(rnd(&rng) % 90000000)}, NULL);
		kill(pid, SIGKILL);
		int status;
		waitpid(pid, &status, 0);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		ok(f, smfs_store_open(f->dir, 0, &f->s, &f->err));
		a.f = *f;
		unsigned at = atomic_load(&m->changing);
		for (unsigned i = 0; i < NAMES; i++) {
			a.map[i] = m->map[i];
			if (i + 1 != at)
				act_read(&a, i);
		}
		/* What was under way is whole or not there; it starts the next round removed. */
		if (at) {
			char name[32];

			actor_name(&a, at - 1, name);
			int r = smfs_name_remove(f->s, SMFS_SNAPSHOT, name, &f->err);
			assert_true(r == 0 || r == -ENOENT);
			err_clear(&f->err);
			m->map[at - 1].exists = false;
			atomic_store(&m->changing, 0);
		}
		if (kills % 4 == 0)
			fsck_clean(f);
		kills++;
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec < end.tv_sec);
	fprintf(stderr, "# killed %u times\n", kills);
	ok(f, collect(f, &g, 1));
	fsck_clean(f);
	free(a.want);
	munmap(m, sizeof(*m));
}

/* Where a sync costs nothing, if there is such a place: nothing here loses power. */
static int quick_setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->dir, access("/dev/shm", W_OK) == 0 ? "/dev/shm/smfs-store.XXXXXX"
						     : "/tmp/smfs-store.XXXXXX");
	if (!mkdtemp(f->dir) || smfs_store_init(f->dir, &f->err) < 0 ||
	    smfs_store_open(f->dir, 0, &f->s, &f->err) < 0) {
		fprintf(stderr, "setup: %s\n", f->err.msg);
		return -1;
	}
	*state = f;
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_frees_what_is_removed, fixture_setup,
						fixture_teardown),
		cmocka_unit_test_setup_teardown(test_ingest_takes_garbage_back, fixture_setup,
						fixture_teardown),
		cmocka_unit_test_setup_teardown(test_ingest_refers_to_garbage, fixture_setup,
						fixture_teardown),
		cmocka_unit_test_setup_teardown(test_diff_of_garbage, fixture_setup,
						fixture_teardown),
		cmocka_unit_test_setup_teardown(test_lease_keeps_a_removed_name, fixture_setup,
						fixture_teardown),
		cmocka_unit_test_setup_teardown(test_many_leases, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(test_other_process_keeps_what_it_found,
						fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(test_damage_stops_it, fixture_setup,
						fixture_teardown),
		cmocka_unit_test_setup_teardown(test_model, quick_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(test_killed_at_any_moment, quick_setup,
						fixture_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
