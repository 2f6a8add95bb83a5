/*
 * The index under damage: LMDB must never get to see a page it would stumble over, and a sound
 * index must never be called damaged.
 *
 * SWEEP=all flips every byte of every page in use, instead of a sample.
 */
#include "store_util.h"

#include "smfs/base/io.h"

#include <sys/wait.h>

static void index_path(const struct fixture *f, const char *name, char out[128])
{
	snprintf(out, 128, "%s/index/%s", f->dir, name);
}

static void close_store(struct fixture *f)
{
	smfs_store_close(f->s);
	f->s = NULL;
}

/* Open without the note that spares the proof. */
static void prove(struct fixture *f)
{
	char seal[128];

	close_store(f);
	index_path(f, "seal", seal);
	unlink(seal);
	ok(f, smfs_store_open(f->dir, 0, &f->s, &f->err));
}

static void put_small(struct fixture *f, const char *name, uint64_t seed)
{
	uint8_t buf[3000];
	struct smfs_content c;

	fill_random(buf, sizeof(buf), seed);
	put_snapshot(f, name, buf, sizeof(buf), &c);
}

static void sound_indexes_pass_the_proof(void **state)
{
	struct fixture *f = *state;
	uint64_t x = 88172645463325252ull;
	bool there[150] = {0};
	char name[32];

	prove(f);
	for (int round = 0; round < 6; round++) {
		/* Names come and go, so that pages are split, merged, freed and used again. */
		for (int i = 0; i < 40; i++) {
			unsigned k = rnd(&x) % ARRAY_SIZE(there);

			snprintf(name, sizeof(name), "name-%u", k);
			if (there[k])
				ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, name, &f->err));
			else
				put_small(f, name, rnd(&x));
			there[k] = !there[k];
		}
		prove(f);
	}
	for (unsigned k = 0; k < ARRAY_SIZE(there); k++) {
		snprintf(name, sizeof(name), "name-%u", k);
		if (there[k])
			ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, name, &f->err));
	}
	prove(f);
	/* One transaction of many frames: large lists of free pages, deep trees. */
	struct smfs_ingest *ing;
	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	for (int i = 0; i < 20000; i++) {
		struct smfs_content c;

		ok(f, smfs_ingest_mem(ing, &i, sizeof(i), &c, &f->err));
	}
	ok(f, smfs_ingest_commit(ing, &f->err));
	prove(f);
	for (int i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "last-%d", i);
		put_small(f, name, rnd(&x));
	}
	prove(f);
}

/* What a process sees and does with the store as it is. */
enum outcome { REFUSED = 10, RIGHT = 11, WRONG = 12 };

static enum outcome use_store(struct fixture *f)
{
	struct smfs_fsck k = {0};
	uint8_t want[3000];
	struct smfs_content c;
	struct smfs_file *file;
	uint8_t got[sizeof(want)];

	int r = smfs_store_open(f->dir, 0, &f->s, &f->err);
	if (r == -EBADMSG)
		return strstr(f->err.msg, "index") ? REFUSED : WRONG;
	if (r < 0)
		return WRONG;
	fill_random(want, sizeof(want), 2);
	if (get_snapshot(f, "two", &c) < 0 || smfs_file_open(f->s, &c, &file, &f->err) < 0 ||
	    smfs_file_pread(file, got, sizeof(got), 0, &f->err) != sizeof(got) ||
	    memcmp(want, got, sizeof(got)) != 0)
		return WRONG;
	smfs_file_close(file);
	if (smfs_fsck(f->s, SMFS_FSCK_READ_DATA, &k, &f->err) < 0)
		return WRONG;
	/* Writes: what is free is taken, what is in use is copied. */
	put_small(f, "new", 77);
	if (smfs_name_remove(f->s, SMFS_SNAPSHOT, "three", &f->err) < 0)
		return WRONG;
	put_small(f, "newer", 78);
	smfs_store_close(f->s);
	if (smfs_store_open(f->dir, SMFS_RDONLY, &f->s, &f->err) < 0 ||
	    smfs_fsck(f->s, SMFS_FSCK_READ_DATA, &k, &f->err) < 0 || k.names != 5)
		return WRONG;
	smfs_store_close(f->s);
	return RIGHT;
}

static void run(const char *fmt, const char *a, const char *b)
{
	char cmd[400];

	snprintf(cmd, sizeof(cmd), fmt, a, b);
	assert_int_equal(system(cmd), 0);
}

/* The next byte to flip: in pages in use `step` apart, elsewhere (free room, free pages) rarely. */
static off_t next_byte(const uint8_t *data, off_t off, unsigned step)
{
	const uint8_t *page = data + off / 4096 * 4096;
	unsigned at = (unsigned)(off % 4096), flags = page[10];
	unsigned lower = page[12] | page[13] << 8, upper = page[14] | page[15] << 8;

	if (flags == 8) /* a header */
		return off + (at < 160 ? 1 : 509);
	if (flags != 1 && flags != 2)
		return off + step * 61;
	if (at < lower || at >= upper)
		return off + step;
	return off + MIN(upper - at, step * 61);
}

static void flipped_bytes_are_refused_or_harmless(void **state)
{
	struct fixture *f = *state;
	const char *sweep = getenv("SWEEP");
	unsigned step = sweep && strcmp(sweep, "all") == 0 ? 1 : 31, refused = 0, right = 0;
	struct fixture copy = {.dir = "/dev/shm/smfs-flip.XXXXXX"};
	char path[128];
	struct stat st;

	put_small(f, "one", 1);
	put_small(f, "two", 2);
	put_small(f, "three", 3);
	ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "one", &f->err));
	put_small(f, "four", 4);
	put_small(f, "five", 5);
	close_store(f);
	assert_non_null(mkdtemp(copy.dir));
	index_path(f, "data.mdb", path);
	assert_int_equal(stat(path, &st), 0);
	cleanup_free uint8_t *data = malloc((size_t)st.st_size + 4096);
	cleanup_fd int orig = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(pread_full(orig, data, (size_t)st.st_size, 0), 0);
	for (off_t off = 0; off < st.st_size; off = next_byte(data, off, step)) {
		int status;

		run("rm -rf %2$s/* && cp -r %1$s/. %2$s", f->dir, copy.dir);
		index_path(&copy, "data.mdb", path);
		cleanup_fd int fd = open(path, O_RDWR | O_CLOEXEC);
		uint8_t b;
		assert_int_equal(pread_full(fd, &b, 1, (uint64_t)off), 0);
		b ^= (uint8_t)(1u << (off + off / 8) % 8);
		assert_int_equal(pwrite_full(fd, &b, 1, (uint64_t)off), 0);
		fflush(NULL);
		pid_t pid = fork();
		if (pid == 0) {
			alarm(300);
			_exit(use_store(&copy));
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		refused += WIFEXITED(status) && WEXITSTATUS(status) == REFUSED;
		right += WIFEXITED(status) && WEXITSTATUS(status) == RIGHT;
		if (!WIFEXITED(status) ||
		    (WEXITSTATUS(status) != REFUSED && WEXITSTATUS(status) != RIGHT)) {
			fail_msg("byte %ld: status %x; see %s", (long)off, (unsigned)status,
				 copy.dir);
		}
	}
	printf("# %ld bytes, step %u: %u refused, %u harmless\n", (long)st.st_size, step, refused,
	       right);
	rm_tree(copy.dir);
	assert_true(refused > 20);
}

/* Where in the file the key of the first or last list of free pages is; and the latest transaction.
 */
static off_t free_list_key(int fd, bool last, uint64_t *txnid)
{
	uint8_t meta[2][152], page[4096];
	uint64_t txn[2], root;

	for (int i = 0; i < 2; i++) {
		assert_int_equal(pread_full(fd, meta[i], sizeof(meta[i]), (uint64_t)i * 4096), 0);
		memcpy(&txn[i], meta[i] + 144, 8);
	}
	const uint8_t *m = meta[txn[1] > txn[0]];
	*txnid = MAX(txn[0], txn[1]);
	assert_int_equal(m[46] | m[47] << 8, 1); /* its tree is one leaf */
	memcpy(&root, m + 80, 8);
	assert_int_equal(pread_full(fd, page, sizeof(page), root * 4096), 0);
	unsigned n = ((page[12] | page[13] << 8) - 16u) / 2;
	const uint8_t *at = page + 16 + (last ? 2 * (n - 1) : 0);

	return (off_t)(root * 4096 + (at[0] | at[1] << 8) + 8u);
}

/* LMDB would take a list under 0 again and again, and so hand out pages twice. */
static void pages_freed_by_no_transaction_are_refused(void **state)
{
	struct fixture *f = *state;
	char path[128], seal[128];

	put_small(f, "one", 1);
	put_small(f, "two", 2);
	ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "one", &f->err));
	for (int last = 0; last < 2; last++) {
		uint64_t was, wrong, txnid;

		close_store(f);
		index_path(f, "seal", seal);
		unlink(seal);
		index_path(f, "data.mdb", path);
		cleanup_fd int fd = open(path, O_RDWR | O_CLOEXEC);
		off_t at = free_list_key(fd, last, &txnid);
		assert_int_equal(pread_full(fd, &was, 8, (uint64_t)at), 0);
		wrong = last ? txnid + 1 : 0;
		assert_int_equal(pwrite_full(fd, &wrong, 8, (uint64_t)at), 0);
		assert_int_equal(smfs_store_open(f->dir, 0, &f->s, &f->err), -EBADMSG);
		assert_non_null(strstr(f->err.msg, "freed by no transaction"));
		err_clear(&f->err);
		assert_int_equal(pwrite_full(fd, &was, 8, (uint64_t)at), 0);
		prove(f);
	}
}

#define store_test(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		store_test(sound_indexes_pass_the_proof),
		store_test(flipped_bytes_are_refused_or_harmless),
		store_test(pages_freed_by_no_transaction_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
