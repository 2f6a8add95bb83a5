/*
 * Repair: what can be known again is, what cannot is named, and nothing good is lost.
 *
 * SWEEP=all kills more repairs. What a flipped byte does: test_store_sweep.c.
 */
#include "repair_store.h"

#include "smfs/base/io.h"
#include "smfs/store/format.h"
#include "smfs/store/writers.h"

#include <dirent.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

static void a_lost_index_is_made_anew(void **state)
{
	static const char *const harm[] = {
		"rm -r %s/index",
		"rm %s/index/data.mdb",
		": >%s/index/data.mdb",
		"truncate -s 9000 %s/index/data.mdb",
		"head -c 60000 /dev/urandom >%s/index/data.mdb",
		"head -c 60000 /dev/zero >%s/index/data.mdb",
		"cd %s/index && head -c 8192 data.mdb >x && head -c 50000 /dev/urandom >>x && mv x "
		"data.mdb",
	};
	struct fixture *f = *state;

	make_store(f);
	for (size_t i = 0; i < ARRAY_SIZE(harm); i++) {
		unsigned lines;

		sh(harm[i], f->dir, "");
		assert_int_equal(checked(f, &lines), -EBADMSG);
		close_store(f);
		wholly_repaired(f);
	}
}

static void a_journal_and_an_index_lost_leave_nothing_silent(void **state)
{
	struct fixture *f = *state;
	struct smfs_fsck k;
	unsigned lines;

	make_store(f);
	/* The journal alone: the index knows all. */
	sh("rm %s/journal", f->dir, "");
	wholly_repaired(f);
	/* A record in its middle and the index: the loss is told, the names of the others are back.
	 */
	sh("rm -r %s/index; printf x | dd of=%s/journal bs=1 seek=100 conv=notrunc status=none",
	   f->dir, f->dir);
	ok(f, repair(f, &k, &lines));
	assert_int_equal(k.guesses, 1);
	ok(f, checked(f, &lines));
	close_store(f);
	/* Both: told, and the packs are there still. */
	sh("rm -r %s/index %s/journal", f->dir, f->dir);
	ok(f, repair(f, &k, &lines));
	assert_int_equal(k.guesses, 1);
	ok(f, checked(f, &lines));
	put_name(f, "two", 1);
	struct smfs_store_stat st;
	ok(f, smfs_store_stat(f->s, &st, &f->err));
	assert_int_equal(st.snapshots, 1);
}

/* ---- a commit that the index does not count ---- */

/* The index as it is now, for back_to_index(). */
static void keep_index(struct fixture *f)
{
	close_store(f);
	sh("rm -rf %1$s/index.kept && cp -a %1$s/index %1$s/index.kept", f->dir, "");
}

static void back_to_index(struct fixture *f)
{
	close_store(f);
	sh("rm -rf %1$s/index && mv %1$s/index.kept %1$s/index && rm -f %1$s/index/seal", f->dir,
	   "");
}

/*
 * Power was lost between journal and index. A repair takes the record for done, as all it speaks of
 * is there; but not when another writer has cut that off meanwhile.
 */
static void a_record_goes_before_what_it_speaks_of(void **state)
{
	struct fixture *f = *state;
	struct smfs_content c;
	struct smfs_fsck k;
	unsigned lines;

	make_store(f);
	for (int written = 0; written < 2; written++) {
		keep_index(f);
		ok(f, smfs_store_open(f->dir, 0, &f->s, &f->err));
		put_name(f, "under-way", 40 + (unsigned)written);
		back_to_index(f);
		if (written)
			die_writing(f, 60, NULL, 500);
		ok(f, repair(f, &k, &lines));
		assert_int_equal(k.guesses, 0);
		ok(f, checked(f, &lines));
		assert_int_equal(right_names(f), NAMES);
		int r = get_snapshot(f, "under-way", &c);
		assert_int_equal(r, written ? -ENOENT : 0);
		if (r == 0)
			ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "under-way", &f->err));
	}
}

static const char *journal_path(struct fixture *f)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/journal", f->dir);
	return path;
}

/* Then the index's names can be read, and it cannot be known that they are the last ones. */
static void break_older_header(struct fixture *f)
{
	char path[128];
	uint64_t txn[2];

	snprintf(path, sizeof(path), "%s/index/data.mdb", f->dir);
	cleanup_fd int fd = open(path, O_RDWR | O_CLOEXEC);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pread_full(fd, &txn[i], 8, i * 4096 + 144), 0);
	assert_int_equal(pwrite_full(fd, "bad", 3, (txn[0] > txn[1]) * 4096 + 16), 0);
}

/* The journal has lost a record that the index counts, and has one that it does not. */
static void a_gap_and_a_record_behind_the_index(void **state)
{
	struct fixture *f = *state;
	struct smfs_content c;
	struct smfs_fsck k;
	unsigned lines;

	for (int partial = 0; partial < 2; partial++) {
		if (partial == 0)
			make_store(f);
		else
			close_store(f);
		ok(f, smfs_store_open(f->dir, 0, &f->s, &f->err));
		put_name(f, "gone", 50);
		put_name(f, "from", 51);
		close_store(f);
		uint64_t at = file_size(journal_path(f));
		ok(f, smfs_store_open(f->dir, 0, &f->s, &f->err));
		ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "gone", &f->err));
		keep_index(f);
		ok(f, smfs_store_open(f->dir, 0, &f->s, &f->err));
		ok(f, smfs_name_rename(f->s, SMFS_SNAPSHOT, "from", "to", &f->err));
		back_to_index(f);
		cleanup_fd int fd = open(journal_path(f), O_RDWR | O_CLOEXEC);
		assert_int_equal(pwrite_full(fd, "lost", 4, at + 30), 0);
		if (partial)
			break_older_header(f);
		ok(f, repair(f, &k, &lines));
		assert_int_equal(k.guesses, partial);
		ok(f, checked(f, &lines));
		assert_int_equal(right_names(f), NAMES);
		assert_int_equal(get_snapshot(f, "from", &c), -ENOENT);
		assert_int_equal(get_snapshot(f, "to", &c), 0);
		/* What cannot be known keeps the name, and says so. */
		assert_int_equal(get_snapshot(f, "gone", &c), partial ? 0 : -ENOENT);
		ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "to", &f->err));
	}
}

/* An older index than the journal's must not make the journal shorter. */
static void an_index_of_yesterday_is_refused(void **state)
{
	struct fixture *f = *state;
	struct smfs_ingest *ing;
	struct smfs_fsck k;
	unsigned lines;

	make_store(f);
	keep_index(f);
	ok(f, smfs_store_open(f->dir, 0, &f->s, &f->err));
	put_name(f, "later", 40);
	put_name(f, "last", 41);
	back_to_index(f);
	ok(f, smfs_store_open(f->dir, 0, &f->s, &f->err));
	assert_int_equal(smfs_name_remove(f->s, SMFS_SNAPSHOT, "one", &f->err), -EBADMSG);
	assert_non_null(strstr(f->err.msg, "--repair"));
	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	int r = smfs_ingest_mem(ing, "new", 3, &(struct smfs_content){0}, &f->err);
	smfs_ingest_abort(ing);
	assert_int_equal(r, -EBADMSG);
	close_store(f);
	ok(f, repair(f, &k, &lines));
	assert_int_equal(k.guesses, 0);
	ok(f, checked(f, &lines));
	assert_int_equal(right_names(f), NAMES);
	ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "later", &f->err));
	ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "last", &f->err));
}

/* ---- who may run beside it ---- */

static void writers_and_a_repair_keep_each_other_out(void **state)
{
	struct fixture *f = *state;
	struct smfs_ingest *ing;
	struct smfs_fsck k;
	unsigned lines;

	make_store(f);
	ok(f, smfs_store_open(f->dir, 0, &f->s, &f->err));
	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	assert_int_equal(repair(f, &k, &lines), -EBUSY);
	assert_non_null(strstr(f->err.msg, "writes to it"));
	smfs_ingest_abort(ing);
	/* An open store that writes nothing is no hindrance, and goes on in the new index. */
	sh("printf xxxx | dd of=%s/journal bs=1 seek=150 conv=notrunc status=none", f->dir, "");
	ok(f, repair(f, &k, &lines));
	assert_int_equal(right_names(f), NAMES);
	put_name(f, "during", 30);
	struct smfs_fsck again = {0};
	ok(f, smfs_fsck(f->s, SMFS_FSCK_READ_DATA, &again, &f->err));
	assert_int_equal(again.names, NAMES + 1);
	ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "during", &f->err));
	/* While one is at work: reads, and no writes. */
	cleanup_fd int dirfd = open(f->dir, O_RDONLY | O_DIRECTORY);
	int lock = writers_exclude(dirfd, f->dir, &f->err);
	assert_true(lock >= 0);
	assert_int_equal(smfs_ingest_begin(f->s, &ing, &f->err), -EBUSY);
	assert_int_equal(smfs_name_remove(f->s, SMFS_SNAPSHOT, "one", &f->err), -EBUSY);
	assert_int_equal(repair(f, &k, &lines), -EBUSY);
	assert_int_equal(right_names(f), NAMES);
	close(lock);
	put_name(f, "later", 31);
	/* Cut short between journal and index: nobody writes until another is through. */
	close_store(f);
	sh(": >%s/repair", f->dir, "");
	ok(f, smfs_store_open(f->dir, 0, &f->s, &f->err));
	assert_int_equal(right_names(f), NAMES);
	assert_int_equal(smfs_ingest_begin(f->s, &ing, &f->err), -EBADMSG);
	close_store(f);
	ok(f, repair(f, &k, &lines));
	ok(f, checked(f, &lines));
	ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "later", &f->err));
}

static uint64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static void killed_at_any_moment_it_is_done_again(void **state)
{
	struct fixture *f = *state;
	uint64_t x = now_us() | 1, longest = 250000;
	struct smfs_fsck k;
	unsigned lines, killed = 0, rounds = getenv("SWEEP") ? 200 : 15;

	printf("# seed %llu\n", (unsigned long long)x);
	make_store(f);
	for (unsigned i = 0; i < rounds; i++) {
		/* The journal damaged, or the index gone, by turns: both ways of the swap. */
		if (i % 3 == 0)
			sh("printf %%s xx | dd of=%s/journal bs=1 seek=130 conv=notrunc "
			   "status=none",
			   f->dir, "");
		else if (i % 3 == 1)
			sh("printf xyz | dd of=%1$s/index/data.mdb bs=1 seek=50 conv=notrunc "
			   "status=none",
			   f->dir, "");
		uint64_t start = now_us();
		fflush(NULL);
		pid_t pid = fork();
		if (pid == 0) {
			close_store(f);
			_exit(repair(f, &k, &lines) < 0);
		}
		uint64_t wait = rnd(&x) % longest;
		while (now_us() - start < wait)
			usleep(100);
		kill(pid, SIGKILL);
		int status;
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (WIFSIGNALED(status))
			killed++;
		else
			longest = now_us() - start;
		wholly_repaired(f);
	}
	printf("# killed %u of %u\n", killed, rounds);
	assert_true(killed > rounds / 5);
}

#define store_test(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		store_test(a_lost_index_is_made_anew),
		store_test(a_journal_and_an_index_lost_leave_nothing_silent),
		store_test(a_record_goes_before_what_it_speaks_of),
		store_test(a_gap_and_a_record_behind_the_index),
		store_test(an_index_of_yesterday_is_refused),
		store_test(writers_and_a_repair_keep_each_other_out),
		store_test(killed_at_any_moment_it_is_done_again),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
