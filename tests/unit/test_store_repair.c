/*
 * Repair: what can be known again is, what cannot is named, and nothing good is lost.
 *
 * SWEEP=all kills more repairs. What a flipped byte does: test_store_sweep.c.
 */
#include "store_util.h"

#include "smfs/base/io.h"
#include "smfs/store/format.h"
#include "smfs/store/writers.h"

#include <dirent.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#define NAMES 4
#define LEN   3000

static const char *const names[NAMES] = {"one", "two", "four", "five"};

static void quiet(void *arg, const char *line)
{
	unsigned *n = arg;

	*n += 1;
	if (getenv("SHOW"))
		printf("#   %s\n", line);
}

static void content(unsigned i, uint8_t buf[LEN])
{
	/* Half of each is common, in a frame of its own tree. */
	fill_random(buf, LEN, 100 + i);
}

static void put_name(struct fixture *f, const char *name, unsigned i)
{
	uint8_t buf[LEN];
	struct smfs_content c;

	content(i, buf);
	put_snapshot(f, name, buf, LEN, &c);
}

static void close_store(struct fixture *f)
{
	smfs_store_close(f->s);
	f->s = NULL;
}

/* Some history: names that stay, one renamed, one removed. */
static void make_store(struct fixture *f)
{
	put_name(f, "one", 0);
	put_name(f, "wto", 1);
	put_name(f, "three", 9);
	ok(f, smfs_name_rename(f->s, SMFS_SNAPSHOT, "wto", "two", &f->err));
	ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "three", &f->err));
	put_name(f, "four", 2);
	put_name(f, "five", 3);
	close_store(f);
}

/* How many of the names read as they were; the rest must be refused as damaged or be gone. */
static unsigned right_names(struct fixture *f)
{
	unsigned right = 0;

	for (unsigned i = 0; i < NAMES; i++) {
		uint8_t want[LEN], got[LEN];
		struct smfs_content c;
		struct smfs_file *file;
		int r = get_snapshot(f, names[i], &c);

		if (r < 0) {
			assert_true(r == -ENOENT || r == -EBADMSG);
			continue;
		}
		content(i, want);
		ok(f, smfs_file_open(f->s, &c, &file, &f->err));
		ssize_t n = smfs_file_pread(file, got, LEN, 0, &f->err);
		smfs_file_close(file);
		if (n < 0) {
			assert_int_equal(n, -EBADMSG);
			continue;
		}
		assert_memory_equal(got, want, LEN);
		right++;
	}
	return right;
}

static int repair(struct fixture *f, struct smfs_fsck *k, unsigned *lines)
{
	*k = (struct smfs_fsck){.report = quiet, .arg = lines};
	*lines = 0;
	return smfs_repair(f->dir, k, &f->err);
}

/* 0 or the result of the open or the check. */
static int checked(struct fixture *f, unsigned *lines)
{
	struct smfs_fsck k = {.report = quiet, .arg = lines};
	int r = smfs_store_open(f->dir, 0, &f->s, &f->err);

	*lines = 0;
	return r < 0 ? r : smfs_fsck(f->s, SMFS_FSCK_READ_DATA, &k, &f->err);
}

static void wholly_repaired(struct fixture *f)
{
	struct smfs_fsck k;
	unsigned lines;

	ok(f, repair(f, &k, &lines));
	assert_int_equal(k.guesses, 0);
	ok(f, checked(f, &lines));
	assert_int_equal(right_names(f), NAMES);
	assert_int_equal(get_snapshot(f, "three", &(struct smfs_content){0}), -ENOENT);
	assert_int_equal(get_snapshot(f, "wto", &(struct smfs_content){0}), -ENOENT);
	/* and goes on to be a store */
	put_name(f, "after", 20);
	ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "after", &f->err));
	close_store(f);
	ok(f, smfs_repair_done(f->dir, &f->err));
	ok(f, checked(f, &lines));
	close_store(f);
}

static void sh(const char *fmt, const char *a, const char *b)
{
	char cmd[400];

	snprintf(cmd, sizeof(cmd), fmt, a, b);
	assert_int_equal(system(cmd), 0);
}

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

/* The only pack of the store. */
static void pack_path(struct fixture *f, char path[192])
{
	char sub[128];
	struct dirent *e;

	snprintf(sub, sizeof(sub), "%s/packs", f->dir);
	cleanup_dir DIR *d = opendir(sub);
	*path = '\0';
	while ((e = readdir(d)))
		if (strstr(e->d_name, ".pack")) {
			assert_false(*path);
			snprintf(path, 192, "%s/%.40s", sub, e->d_name);
		}
}

/* A writer that stores `len` bytes of the seed as one chunk and dies before its commit. */
static void die_writing(struct fixture *f, uint64_t seed, const void *data, size_t len)
{
	cleanup_free uint8_t *buf = malloc(len);
	struct smfs_ingest *ing;
	struct smfs_content c;

	if (data)
		memcpy(buf, data, len);
	else
		fill_random(buf, len, seed);
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		if (smfs_store_open(f->dir, 0, &f->s, &f->err) == 0 &&
		    smfs_ingest_begin(f->s, &ing, &f->err) == 0)
			smfs_ingest_mem(ing, buf, len, &c, &f->err);
		kill(getpid(), SIGKILL);
	}
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static uint64_t file_size(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return (uint64_t)st.st_size;
}

static void a_tail_nobody_vouched_for_is_kept(void **state)
{
	struct fixture *f = *state;
	struct smfs_ingest *ing;
	struct smfs_content c;
	uint8_t buf[LEN];
	struct smfs_fsck k;
	unsigned lines;

	make_store(f);
	content(50, buf);
	die_writing(f, 0, buf, LEN);
	ok(f, repair(f, &k, &lines));
	ok(f, checked(f, &lines));
	assert_int_equal(right_names(f), NAMES);
	/* its content is there to be shared */
	struct smfs_ingest_stat st;
	content(50, buf);
	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	ok(f, smfs_ingest_mem(ing, buf, LEN, &c, &f->err));
	smfs_ingest_stat(ing, &st);
	assert_int_equal(st.dup_bytes, LEN);
	smfs_ingest_abort(ing);
}

static void flip_frame_of(struct fixture *f, unsigned i, int at)
{
	uint8_t want[LEN];
	char path[192];

	pack_path(f, path);
	cleanup_fd int fd = open(path, O_RDWR | O_CLOEXEC);
	size_t len = file_size(path);
	cleanup_free uint8_t *pack = malloc(len);
	assert_int_equal(pread_full(fd, pack, len, 0), 0);
	content(i, want);
	uint8_t *hit = memmem(pack, len, want, 16);
	assert_non_null(hit);
	hit[at] ^= 4;
	assert_int_equal(pwrite_full(fd, hit + at, 1, (uint64_t)(hit + at - pack)), 0);
}

/* 0 when the name reads as `want`. */
static int read_name(struct fixture *f, const char *name, const void *want, size_t len)
{
	cleanup_free uint8_t *got = malloc(len);
	struct smfs_content c;
	struct smfs_file *file;

	ok(f, get_snapshot(f, name, &c));
	ok(f, smfs_file_open(f->s, &c, &file, &f->err));
	ssize_t n = smfs_file_pread(file, got, len, 0, &f->err);
	smfs_file_close(file);
	if (n == (ssize_t)len)
		assert_memory_equal(got, want, len);
	return n < 0 ? (int)n : 0;
}

/*
 * Power was lost when a frame's header had reached the disk and its payload had not, whole. What is
 * appended after a repair stands where the payload would: it must not be hidden by that header,
 * neither from a check nor from another repair.
 */
static void a_torn_tail_hides_nothing(void **state)
{
	/* of the frame; the first three within its header, around what proves itself */
	static const unsigned lens[] = {48, 56, 64, 72, 200, 40200};
	struct fixture *f = *state;
	struct smfs_fsck k;
	char path[192];
	unsigned lines;

	make_store(f);
	pack_path(f, path);
	uint64_t whole = file_size(path);
	for (unsigned i = 0; i < ARRAY_SIZE(lens); i++) {
		die_writing(f, 60 + i, NULL, 60000);
		assert_int_equal(truncate(path, (off_t)(whole + lens[i])), 0);
		ok(f, repair(f, &k, &lines));
		ok(f, checked(f, &lines));
		put_name(f, "behind", 80 + i);
		close_store(f);
		ok(f, checked(f, &lines));
		close_store(f);
		sh("rm -r %s/index", f->dir, "");
		ok(f, repair(f, &k, &lines));
		assert_int_equal(k.guesses, 0);
		ok(f, checked(f, &lines));
		assert_int_equal(right_names(f), NAMES);
		assert_int_equal(get_snapshot(f, "behind", &(struct smfs_content){0}), 0);
		ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "behind", &f->err));
		close_store(f);
		whole = file_size(path);
	}
}

/*
 * A file may consist of frames that lie about their ids. When the header of the frame that holds
 * them is gone, a scan meets them as it looks for the next: it must not take them for true.
 */
static void frames_inside_a_file_are_not_believed(void **state)
{
	struct fixture *f = *state;
	uint8_t victim[LEN], forged[64 + LEN + 8], evil[65536] = {0};
	struct frame_head h = {.kind = FRAME_CHUNK, .raw_len = LEN, .stored_len = LEN};
	struct smfs_content c;
	struct smfs_fsck k;
	char path[192];
	unsigned lines;

	make_store(f);
	/* The forgery: the id of content that comes later, and other bytes. */
	content(30, victim);
	frame_id(FRAME_CHUNK, victim, LEN, &h.id);
	fill_random(evil, sizeof(evil), 1234);
	frame_head_encode(&h, evil, forged);
	memcpy(forged + 64, evil, LEN);
	memcpy(evil + 8000, forged, 64 + LEN);
	/* And one that claims to reach over all that follows. */
	h.raw_len = h.stored_len = 65536;
	frame_head_encode(&h, evil, evil + 64);
	ok(f, smfs_store_open(f->dir, 0, &f->s, &f->err));
	pack_path(f, path);
	uint64_t at = file_size(path);
	put_snapshot(f, "evil", evil, sizeof(evil), &c);
	put_name(f, "victim", 30);
	put_name(f, "last", 31);
	close_store(f);
	cleanup_fd int fd = open(path, O_RDWR | O_CLOEXEC);
	assert_int_equal(pwrite_full(fd, "bad", 3, at), 0);
	sh("rm -r %s/index", f->dir, "");
	ok(f, repair(f, &k, &lines));
	assert_int_equal(checked(f, &lines), -EBADMSG);
	assert_int_equal(right_names(f), NAMES);
	assert_int_equal(read_name(f, "evil", evil, sizeof(evil)), -EBADMSG);
	assert_int_equal(read_name(f, "victim", victim, LEN), 0);
	content(31, victim);
	assert_int_equal(read_name(f, "last", victim, LEN), 0);
	ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "evil", &f->err));
	close_store(f);
	ok(f, checked(f, &lines));
}

static uint64_t compact(struct fixture *f, uint64_t *damaged)
{
	struct smfs_gc g = {.compact_percent = 1};

	ok(f, smfs_gc(f->s, 0, &g, &f->err));
	*damaged = g.packs_damaged;
	return g.packs_compacted;
}

static void damage_that_nobody_needs_goes_with_its_pack(void **state)
{
	struct fixture *f = *state;
	struct smfs_fsck k;
	uint64_t damaged;
	char path[192];
	unsigned lines;

	make_store(f);
	pack_path(f, path);
	die_writing(f, 60, NULL, 60000);
	assert_int_equal(truncate(path, (off_t)file_size(path) - 1000), 0);
	sh("head -c 5000 /dev/urandom >>%s", path, "");
	ok(f, repair(f, &k, &lines));
	ok(f, checked(f, &lines));
	put_name(f, "behind", 81);
	assert_int_equal(compact(f, &damaged), 1);
	assert_int_equal(damaged, 0);
	assert_int_equal(right_names(f), NAMES);
	close_store(f);
	ok(f, checked(f, &lines));
	close_store(f);
	pack_path(f, path);
	assert_true(file_size(path) < 30000);
}

/* A frame that is needed and cannot be read keeps its pack until it is whole again. */
static void damage_that_is_needed_keeps_its_pack(void **state)
{
	struct fixture *f = *state;
	uint64_t damaged;
	struct smfs_fsck k = {0};
	unsigned lines;

	for (int header = 0; header < 2; header++) {
		if (header == 0) {
			make_store(f);
		} else {
			put_name(f, "unused", 90);
			ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "unused", &f->err));
			close_store(f);
		}
		flip_frame_of(f, 1, header ? -50 : 100);
		ok(f, smfs_store_open(f->dir, 0, &f->s, &f->err));
		for (int again = 0; again < 2; again++) {
			assert_int_equal(compact(f, &damaged), 0);
			assert_int_equal(damaged, 1);
			assert_int_equal(right_names(f), NAMES - 1);
		}
		k = (struct smfs_fsck){.report = quiet, .arg = &lines};
		assert_int_equal(smfs_fsck(f->s, 0, &k, &f->err), -EBADMSG);
		assert_int_equal(k.bad_names, 1 + header);
		put_name(f, header ? "same-again" : "same", 1);
		assert_int_equal(compact(f, &damaged), 1);
		assert_int_equal(damaged, 0);
		assert_int_equal(right_names(f), NAMES);
		ok(f, smfs_fsck(f->s, SMFS_FSCK_READ_DATA, &k, &f->err));
	}
}

/* The same content stored again makes all of its names whole. */
static void heal(struct fixture *f, bool by_read)
{
	struct smfs_fsck k = {0};
	struct smfs_store_stat st;
	unsigned lines;

	make_store(f);
	flip_frame_of(f, 1, 100);
	ok(f, smfs_store_open(f->dir, SMFS_RDONLY, &f->s, &f->err));
	if (by_read)
		assert_int_equal(right_names(f), NAMES - 1);
	else
		assert_int_equal(smfs_fsck(f->s, SMFS_FSCK_READ_DATA, &k, &f->err), -EBADMSG);
	close_store(f);
	/* Another handle knows, and says so without reading all. */
	ok(f, smfs_store_open(f->dir, 0, &f->s, &f->err));
	k = (struct smfs_fsck){.report = quiet, .arg = &lines};
	assert_int_equal(smfs_fsck(f->s, 0, &k, &f->err), -EBADMSG);
	assert_int_equal(k.quarantined, 1);
	assert_int_equal(k.bad_frames, 1);
	assert_int_equal(k.bad_names, 1);
	/* Content of others heals nothing; its own does. */
	put_name(f, "other", 70);
	assert_int_equal(right_names(f), NAMES - 1);
	put_name(f, "same", 1);
	assert_int_equal(right_names(f), NAMES);
	ok(f, smfs_store_stat(f->s, &st, &f->err));
	assert_int_equal(st.healed, 1);
	assert_int_equal(st.quarantined, 0);
	ok(f, smfs_fsck(f->s, SMFS_FSCK_READ_DATA, &k, &f->err));
	assert_int_equal(k.quarantined, 0);
}

static void content_found_bad_by_a_check_heals(void **state)
{
	heal(*state, false);
}

static void content_found_bad_by_a_read_heals(void **state)
{
	heal(*state, true);
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
		store_test(a_tail_nobody_vouched_for_is_kept),
		store_test(a_torn_tail_hides_nothing),
		store_test(frames_inside_a_file_are_not_believed),
		store_test(damage_that_nobody_needs_goes_with_its_pack),
		store_test(damage_that_is_needed_keeps_its_pack),
		store_test(a_record_goes_before_what_it_speaks_of),
		store_test(a_gap_and_a_record_behind_the_index),
		store_test(an_index_of_yesterday_is_refused),
		store_test(content_found_bad_by_a_check_heals),
		store_test(content_found_bad_by_a_read_heals),
		store_test(writers_and_a_repair_keep_each_other_out),
		store_test(killed_at_any_moment_it_is_done_again),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
