/*
 * kill -9 of a writing process, many times at random moments: what it acknowledged is there, byte
 * for byte, what it did not is not there or whole; and the store checks clean.
 *
 *   test_store_crash                    the test (CRASH_SEED=n repeats a run)
 *   test_store_crash write DIR FROM     write snapshots until killed, a line for each acknowledged
 */
#include "store_util.h"

#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#define KILLS	50
#define LEN_MAX (3 * MIB)
#define SHARED	400000 /* the first bytes are common to all, so that frames are found again */

static size_t content(uint8_t *buf, uint64_t k)
{
	uint64_t x = k * 77 + 5;
	size_t len = SHARED + rnd(&x) % (LEN_MAX - SHARED);

	fill_mixed(buf, SHARED, 1);
	fill_mixed(buf + SHARED, len - SHARED, k);
	return len;
}

/*
 * The k-th change: a snapshot s<k>; of every fourth, its renaming to r<k>; of every eighth, its
 * removal again. Each is acknowledged by "<k> <what>\n", written at once.
 */
static void acknowledge(uint64_t k, char what)
{
	char line[32];
	int n = snprintf(line, sizeof(line), "%" PRIu64 " %c\n", k, what);

	if (write(STDOUT_FILENO, line, (size_t)n) != n)
		_exit(1);
}

_Noreturn static void write_forever(const char *dir, uint64_t k)
{
	struct fixture f = {0};
	uint8_t *buf = malloc(LEN_MAX);
	char name[32], to[32];

	ok(&f, smfs_store_open(dir, 0, &f.s, &f.err));
	for (;; k++) {
		struct smfs_content c;

		snprintf(name, sizeof(name), "s%" PRIu64, k);
		snprintf(to, sizeof(to), "r%" PRIu64, k);
		put_snapshot(&f, name, buf, content(buf, k), &c);
		acknowledge(k, 's');
		if (k % 4 == 0) {
			ok(&f, smfs_name_rename(f.s, SMFS_SNAPSHOT, name, to, &f.err));
			acknowledge(k, 'r');
		}
		if (k % 8 == 0) {
			ok(&f, smfs_name_remove(f.s, SMFS_SNAPSHOT, to, &f.err));
			acknowledge(k, 'd');
		}
	}
}

/* A name that is there is right, acknowledged or not. 1 = there. */
static int whole(struct fixture *f, const char *fmt, uint64_t k, uint8_t *buf)
{
	struct smfs_content c;
	char name[32];

	snprintf(name, sizeof(name), fmt, k);
	int r = get_snapshot(f, name, &c);
	if (r == -ENOENT)
		return 0;
	ok(f, r);
	read_equals(f, &c, buf, content(buf, k));
	return 1;
}

/* `state`: the last acknowledged step of k, 0 for none. The next step may have happened, too. */
static void verify_one(struct fixture *f, uint64_t k, char state, uint8_t *buf)
{
	int s = whole(f, "s%" PRIu64, k, buf), r = whole(f, "r%" PRIu64, k, buf);

	switch (state) {
	case 0:
		assert_true(s + r <= 1);
		break;
	case 's':
		/* the renaming, even the removal, of the last change may have gone through */
		assert_true(s + r == 1 || k % 8 == 0);
		if (k % 4)
			assert_int_equal(s, 1);
		break;
	case 'r':
		assert_int_equal(s, 0);
		assert_true(r == 1 || k % 8 == 0);
		break;
	default:
		assert_int_equal(s + r, 0);
	}
}

static void print_line(void *arg, const char *line)
{
	fprintf(stderr, "# fsck: %s\n", line);
}

static void check_clean(struct fixture *f, unsigned flags)
{
	struct smfs_fsck k = {.report = print_line};

	ok(f, smfs_fsck(f->s, flags, &k, &f->err));
}

/* ---- the test ---- */

struct run {
	char *acked; /* by k: the last step */
	uint64_t n, cap;
	uint64_t acks;
};

static void note(struct run *run, uint64_t k, char what)
{
	if (k >= run->cap) {
		uint64_t cap = k * 2 + 64;

		run->acked = realloc(run->acked, cap);
		memset(run->acked + run->cap, 0, cap - run->cap);
		run->cap = cap;
	}
	run->acked[k] = what;
	run->acks++;
	run->n = MAX(run->n, k + 1);
}

static char acked(const struct run *run, uint64_t k)
{
	return k < run->cap ? run->acked[k] : 0;
}

static void note_lines(struct run *run, FILE *in)
{
	uint64_t k;
	char what;

	while (fscanf(in, "%" SCNu64 " %c\n", &k, &what) == 2)
		note(run, k, what);
}

/* Start a writer, kill it `us` after its start or (settled) its first acknowledgement. */
static void kill_a_writer(const char *self, const char *dir, struct run *run, unsigned us,
			  bool settled)
{
	char from[32];
	int p[2];

	/* the change that was under way when the last writer died is not repeated */
	snprintf(from, sizeof(from), "%" PRIu64, run->n + 1);
	assert_int_equal(pipe(p), 0);
	pid_t pid = fork();
	if (pid == 0) {
		dup2(p[1], STDOUT_FILENO);
		close(p[0]);
		close(p[1]);
		execl(self, self, "write", dir, from, (char *)NULL);
		_exit(127);
	}
	assert_true(pid > 0);
	close(p[1]);
	struct pollfd pfd = {.fd = p[0], .events = POLLIN};
	if (settled)
		assert_int_equal(poll(&pfd, 1, 30000), 1);
	usleep(us);
	kill(pid, SIGKILL);
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	FILE *in = fdopen(p[0], "r");
	run->n += 2;
	note_lines(run, in);
	fclose(in);
}

static char self_path[4096];

static void acknowledged_survives_kill_and_the_rest_leaves_nothing(void **state)
{
	struct fixture f = {.dir = "/tmp/smfs-crash.XXXXXX"};
	const char *env = getenv("CRASH_SEED");
	uint64_t x =
		env ? strtoull(env, NULL, 10) : (uint64_t)time(NULL) * 1000 + (uint64_t)getpid();
	struct run run = {0};
	uint8_t *buf = malloc(LEN_MAX);
	uint64_t checked = 1;

	printf("# CRASH_SEED=%" PRIu64 "\n", x);
	assert_non_null(mkdtemp(f.dir));
	ok(&f, smfs_store_init(f.dir, &f.err));
	for (int i = 0; i < KILLS; i++) {
		kill_a_writer(self_path, f.dir, &run, (unsigned)(rnd(&x) % 200000), i % 2);
		ok(&f, smfs_store_open(f.dir, 0, &f.s, &f.err));
		check_clean(&f, 0);
		/* the one under way, too: it is whole or absent */
		for (; checked <= run.n; checked++)
			verify_one(&f, checked, acked(&run, checked), buf);
		checked = run.n + 1;
		smfs_store_close(f.s);
	}
	assert_true(run.acks >= KILLS / 2);
	ok(&f, smfs_store_open(f.dir, 0, &f.s, &f.err));
	check_clean(&f, SMFS_FSCK_READ_DATA);
	for (uint64_t k = 1; k < run.n; k++)
		verify_one(&f, k, acked(&run, k), buf);
	printf("# %" PRIu64 " changes acknowledged over %d kills\n", run.acks, KILLS);
	smfs_store_close(f.s);
	rm_tree(f.dir);
	free(run.acked);
	free(buf);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(acknowledged_survives_kill_and_the_rest_leaves_nothing),
	};

	if (argc == 4 && strcmp(argv[1], "write") == 0)
		write_forever(argv[2], strtoull(argv[3], NULL, 10));
	if (readlink("/proc/self/exe", self_path, sizeof(self_path) - 1) < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
