/* One store, many processes and threads. */
#include "store_util.h"

#include <pthread.h>
#include <sys/wait.h>

#define ROUNDS 25
#define LEN    (700 * 1024)

static void name_of(char *out, size_t n, int who, int round)
{
	snprintf(out, n, "p%d-%d", who, round);
}

/* Runs in a process of its own. Half of the content is common to all writers and rounds. */
static int writer(const char *dir, int who)
{
	struct fixture f = {0};
	uint8_t *buf = malloc(LEN);

	ok(&f, smfs_store_open(dir, 0, &f.s, &f.err));
	for (int i = 0; i < ROUNDS; i++) {
		struct smfs_content c;
		char name[32];

		fill_mixed(buf, LEN / 2, (uint64_t)i);
		fill_mixed(buf + LEN / 2, LEN / 2, (uint64_t)(1000 + who * 100 + i));
		name_of(name, sizeof(name), who, i);
		put_snapshot(&f, name, buf, LEN, &c);
	}
	smfs_store_close(f.s);
	free(buf);
	return 0;
}

static int verify_all(struct fixture *f, int writers)
{
	uint8_t *buf = malloc(LEN);
	int seen = 0;

	for (int who = 0; who < writers; who++)
		for (int i = 0; i < ROUNDS; i++) {
			struct smfs_content c;
			char name[32];

			name_of(name, sizeof(name), who, i);
			int r = get_snapshot(f, name, &c);
			if (r == -ENOENT)
				break;
			ok(f, r);
			fill_mixed(buf, LEN / 2, (uint64_t)i);
			fill_mixed(buf + LEN / 2, LEN / 2, (uint64_t)(1000 + who * 100 + i));
			read_equals(f, &c, buf, LEN);
			seen++;
		}
	free(buf);
	return seen;
}

static pid_t spawn(int (*fn)(const char *, int), const char *dir, int who)
{
	fflush(NULL);
	pid_t pid = fork();

	if (pid == 0)
		_exit(fn(dir, who));
	assert_true(pid > 0);
	return pid;
}

static void processes_write_and_read_at_once(void **state)
{
	struct fixture *f = *state;
	enum { WRITERS = 3 };
	pid_t pid[WRITERS];
	int left = WRITERS;
	struct smfs_fsck k = {0};

	/* the parent's handle is open all the while, and reads */
	for (int i = 0; i < WRITERS; i++)
		pid[i] = spawn(writer, f->dir, i);
	while (left) {
		int status;

		verify_all(f, WRITERS);
		for (int i = 0; i < WRITERS; i++)
			if (pid[i] && waitpid(pid[i], &status, WNOHANG) == pid[i]) {
				assert_int_equal(status, 0);
				pid[i] = 0;
				left--;
			}
	}
	assert_int_equal(verify_all(f, WRITERS), WRITERS * ROUNDS);
	assert_int_equal(smfs_store_seq(f->s), WRITERS * ROUNDS);
	ok(f, smfs_fsck(f->s, SMFS_FSCK_READ_DATA, &k, &f->err));
	/* writers at the same time have a pack each, and take it up again */
	assert_true(k.packs >= 1 && k.packs <= WRITERS);
}

struct shared {
	struct fixture *f;
	struct smfs_ingest *ing;
	struct smfs_content c[8];
};

static void *ingest_some(void *arg)
{
	struct shared *sh = arg;
	struct fixture local = *sh->f;
	uint8_t *buf = malloc(LEN * 4);

	for (uint64_t i = 0; i < 8; i++) {
		struct smfs_content c;

		fill_mixed(buf, LEN * 4, i);
		ok(&local, smfs_ingest_mem(sh->ing, buf, LEN * 4, &c, &local.err));
		assert_memory_equal(&c, &sh->c[i], sizeof(c));
	}
	free(buf);
	return NULL;
}

static void threads_share_an_ingest(void **state)
{
	struct fixture *f = *state;
	cleanup_free uint8_t *buf = malloc(LEN * 4);
	struct shared sh = {.f = f};
	struct smfs_ingest_stat st;
	pthread_t tid[4];
	uint64_t once;

	/* what one thread gets, first, in an ingest thrown away */
	ok(f, smfs_ingest_begin(f->s, &sh.ing, &f->err));
	for (uint64_t i = 0; i < 8; i++) {
		fill_mixed(buf, LEN * 4, i);
		ok(f, smfs_ingest_mem(sh.ing, buf, LEN * 4, &sh.c[i], &f->err));
	}
	smfs_ingest_stat(sh.ing, &st);
	once = st.new_bytes;
	smfs_ingest_abort(sh.ing);

	ok(f, smfs_ingest_begin(f->s, &sh.ing, &f->err));
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&tid[i], NULL, ingest_some, &sh), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(tid[i], NULL);
	smfs_ingest_stat(sh.ing, &st);
	assert_int_equal(st.new_bytes, once);
	ok(f, smfs_ingest_commit(sh.ing, &f->err));
	for (uint64_t i = 0; i < 8; i++) {
		fill_mixed(buf, LEN * 4, i);
		read_equals(f, &sh.c[i], buf, LEN * 4);
	}
}

static void *read_some(void *arg)
{
	struct shared *sh = arg;
	struct fixture local = *sh->f;
	uint8_t *want = malloc(LEN * 4), *got = malloc(LEN * 4);
	struct smfs_file *file;
	uint64_t x = (uint64_t)(uintptr_t)want;

	fill_mixed(want, LEN * 4, 3);
	ok(&local, smfs_file_open(local.s, &sh->c[3], &file, &local.err));
	for (int i = 0; i < 3000; i++) {
		uint64_t off = rnd(&x) % (LEN * 4 - 5000);

		if (smfs_file_pread(file, got, 5000, off, &local.err) != 5000 ||
		    memcmp(got, want + off, 5000) != 0)
			fail_msg("read at %lu differs", (unsigned long)off);
	}
	smfs_file_close(file);
	free(want);
	free(got);
	return NULL;
}

static void threads_share_a_reader(void **state)
{
	struct fixture *f = *state;
	cleanup_free uint8_t *buf = malloc(LEN * 4);
	struct shared sh = {.f = f};
	pthread_t tid[4];

	fill_mixed(buf, LEN * 4, 3);
	put_snapshot(f, "a", buf, LEN * 4, &sh.c[3]);
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&tid[i], NULL, read_some, &sh), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(tid[i], NULL);
}

#define store_test(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		store_test(processes_write_and_read_at_once),
		store_test(threads_share_an_ingest),
		store_test(threads_share_a_reader),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
