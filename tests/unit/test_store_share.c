/* One store, many processes and threads. */
#include "store_util.h"

#include <pthread.h>
#include <sys/socket.h>
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

/* Holds an ingest of LEN * 8 new bytes open, uncommitted, until the parent has written a byte. */
static int hold_ingest(const char *dir, int fd)
{
	struct fixture f = {0};
	uint8_t *buf = malloc(LEN * 8);
	struct smfs_ingest *ing;
	struct smfs_content c;
	char byte = 'r';

	ok(&f, smfs_store_open(dir, 0, &f.s, &f.err));
	fill_random(buf, LEN * 8, 77);
	ok(&f, smfs_ingest_begin(f.s, &ing, &f.err));
	ok(&f, smfs_ingest_mem(ing, buf, LEN * 8, &c, &f.err));
	stage_file(&f, ing, "long", &c, 0);
	if (write(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 1)
		return 1;
	ok(&f, smfs_ingest_commit(ing, &f.err));
	smfs_store_close(f.s);
	free(buf);
	return 0;
}

/* The index is locked by a commit, and not by what comes before it. */
static void a_long_ingest_keeps_no_other_waiting(void **state)
{
	struct fixture *f = *state;
	uint8_t *buf = malloc(LEN);
	struct smfs_content c;
	int fd[2], status;
	char byte, name[32];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
	pid_t pid = spawn(hold_ingest, f->dir, fd[1]);
	close(fd[1]);
	assert_int_equal(read(fd[0], &byte, 1), 1);
	/* were it to wait, it would for ever: the other one waits for this */
	alarm(300);
	for (int i = 0; i < 5; i++) {
		fill_mixed(buf, LEN, (uint64_t)i);
		name_of(name, sizeof(name), 0, i);
		put_snapshot(f, name, buf, LEN, &c);
		ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, name, &f->err));
	}
	alarm(0);
	assert_int_equal(get_snapshot(f, "long", &c), -ENOENT);
	assert_int_equal(write(fd[0], &byte, 1), 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	fill_random(buf, LEN, 77);
	ok(f, get_snapshot(f, "long", &c));
	assert_int_equal(c.size, LEN * 8);
	close(fd[0]);
	free(buf);
}

/* Commits one name when the parent closes the pipe: 0, or 1 when it is taken. */
static int contend(const char *dir, int fd)
{
	struct fixture f = {0};
	uint8_t buf[5000];
	struct smfs_ingest *ing;
	struct smfs_content c;
	char byte;

	ok(&f, smfs_store_open(dir, 0, &f.s, &f.err));
	fill_random(buf, sizeof(buf), (uint64_t)getpid());
	ok(&f, smfs_ingest_begin(f.s, &ing, &f.err));
	ok(&f, smfs_ingest_mem(ing, buf, sizeof(buf), &c, &f.err));
	stage_file(&f, ing, "same", &c, 0);
	if (read(fd, &byte, 1) != 0)
		return 2;
	int r = smfs_ingest_commit(ing, &f.err);
	if (r == -EEXIST && strstr(f.err.msg, "snapshot same: name is taken"))
		r = 1;
	smfs_store_close(f.s);
	return r < 0 ? 3 : r;
}

static void of_two_that_take_one_name_one_wins(void **state)
{
	struct fixture *f = *state;
	enum { N = 6 };
	struct smfs_fsck k = {0};
	int fd[2], won = 0, lost = 0;
	pid_t pid[N];

	assert_int_equal(pipe(fd), 0);
	for (int i = 0; i < N; i++) {
		fflush(NULL);
		pid[i] = fork();
		if (pid[i] == 0) {
			close(fd[1]);
			_exit(contend(f->dir, fd[0]));
		}
	}
	close(fd[0]);
	close(fd[1]);
	for (int i = 0; i < N; i++) {
		int status;

		assert_int_equal(waitpid(pid[i], &status, 0), pid[i]);
		won += status == 0;
		lost += WIFEXITED(status) && WEXITSTATUS(status) == 1;
	}
	assert_int_equal(won, 1);
	assert_int_equal(lost, N - 1);
	ok(f, smfs_fsck(f->s, SMFS_FSCK_READ_DATA, &k, &f->err));
	assert_int_equal(k.names, 1);
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
		store_test(a_long_ingest_keeps_no_other_waiting),
		store_test(of_two_that_take_one_name_one_wins),
		store_test(threads_share_an_ingest),
		store_test(threads_share_a_reader),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
