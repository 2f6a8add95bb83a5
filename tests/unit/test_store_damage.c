/* Damage: found by fsck, EBADMSG on exactly the bytes it hits, never a wrong byte or a crash. */
#include "store_util.h"

#include "smfs/base/io.h"

#include <dirent.h>
#include <sys/wait.h>

struct lines {
	unsigned n;
	char last[2048];
	char wanted[64]; /* a line that begins so ... */
	unsigned hits;	 /* ... was seen this often */
};

static void collect(void *arg, const char *line)
{
	struct lines *l = arg;

	l->n++;
	snprintf(l->last, sizeof(l->last), "%s", line);
	if (l->wanted[0] && strncmp(line, l->wanted, strlen(l->wanted)) == 0)
		l->hits++;
}

static int check(struct smfs_store *s, unsigned flags, struct lines *l, struct err *err)
{
	struct smfs_fsck k = {.report = collect, .arg = l};

	return smfs_fsck(s, flags, &k, err);
}

static void pack_path(const char *dir, char *out, size_t n)
{
	char sub[128];

	snprintf(sub, sizeof(sub), "%s/packs", dir);
	cleanup_dir DIR *d = opendir(sub);
	struct dirent *e;

	out[0] = 0;
	while ((e = readdir(d)))
		if (strstr(e->d_name, ".pack"))
			snprintf(out, n, "%s/%.60s", sub, e->d_name);
	assert_true(out[0]);
}

static void flip(const char *path, uint64_t off, uint8_t mask)
{
	cleanup_fd int fd = open(path, O_RDWR | O_CLOEXEC);
	uint8_t b;

	assert_int_equal(pread_full(fd, &b, 1, off), 0);
	b ^= mask;
	assert_int_equal(pwrite_full(fd, &b, 1, off), 0);
}

static off_t size_of(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return st.st_size;
}

/* Two snapshots that share most, a map, a chunk of its own, directories. */
static void small_store(struct fixture *f, uint8_t *buf, size_t len)
{
	struct smfs_content c;

	put_snapshot(f, "a", buf, len, &c);
	buf[len - 1] ^= 1;
	put_snapshot(f, "b", buf, len, &c);
	buf[len - 1] ^= 1;
	put_snapshot(f, "tiny", "some few bytes", 14, &c);
}

/* Reading "data" of a name gives the right bytes or an error. 1 = right, 0 = error. */
static int right_or_refused(struct fixture *f, const char *name, const uint8_t *want, size_t len)
{
	cleanup_free uint8_t *got = malloc(len);
	struct smfs_content c;
	struct smfs_file *file;

	if (get_snapshot(f, name, &c) < 0) {
		assert_int_equal(f->err.code, EBADMSG);
		return 0;
	}
	assert_int_equal(c.size, len);
	ok(f, smfs_file_open(f->s, &c, &file, &f->err));
	ssize_t n = smfs_file_pread(file, got, len, 0, &f->err);
	smfs_file_close(file);
	if (n < 0) {
		assert_int_equal(n, -EBADMSG);
		return 0;
	}
	assert_int_equal(n, len);
	assert_memory_equal(got, want, len);
	return 1;
}

static void a_clean_store_has_no_findings(void **state)
{
	struct fixture *f = *state;
	cleanup_free uint8_t *buf = malloc(300000);
	struct smfs_fsck k = {0};

	fill_mixed(buf, 300000, 3);
	small_store(f, buf, 300000);
	ok(f, smfs_fsck(f->s, SMFS_FSCK_READ_DATA, &k, &f->err));
	assert_int_equal(k.names, 3);
	assert_int_equal(k.packs, 1);
	assert_int_equal(k.bad_frames, 0);
	assert_int_equal(k.garbage_frames, 0);
	assert_true(k.nodes >= 5 && k.frames > k.nodes);
	ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "tiny", &f->err));
	ok(f, smfs_fsck(f->s, 0, &k, &f->err));
	assert_int_equal(k.names, 2);
	/* its chunk and its directory */
	assert_int_equal(k.garbage_frames, 2);
}

static void every_flipped_byte_of_a_pack_is_found(void **state)
{
	struct fixture *f = *state;
	uint8_t buf[66000];
	char path[256];
	unsigned hits = 0;

	/* compresses well: few bytes to flip, all kinds of frames */
	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)(i / 3000 + 1);
	small_store(f, buf, sizeof(buf));
	pack_path(f->dir, path, sizeof(path));
	off_t size = size_of(path);
	assert_true(size < 4096);
	for (off_t off = 0; off < size; off++) {
		struct lines l = {0};

		flip(path, off, (uint8_t)(1 << off % 8));
		reopen(f, SMFS_RDONLY);
		hits += !right_or_refused(f, "a", buf, sizeof(buf));
		hits += !right_or_refused(f, "tiny", (const uint8_t *)"some few bytes", 14);
		if (check(f->s, SMFS_FSCK_READ_DATA, &l, &f->err) != -EBADMSG || l.n == 0)
			fail_msg("byte %ld of the pack: not found", (long)off);
		flip(path, off, (uint8_t)(1 << off % 8));
	}
	assert_true(hits > (unsigned)size / 3);
	reopen(f, 0);
	struct lines l = {0};
	ok(f, check(f->s, SMFS_FSCK_READ_DATA, &l, &f->err));
}

static void a_bad_frame_hits_its_own_bytes_only(void **state)
{
	struct fixture *f = *state;
	enum { LEN = 20 * 65536 };
	cleanup_free uint8_t *buf = malloc(LEN), *got = malloc(LEN);
	struct lines l = {.wanted = "snapshot a: data: bytes 196608-262143: "};
	struct smfs_content c;
	struct smfs_file *file;
	char path[256];
	uint8_t needle[16];

	fill_random(buf, LEN, 1);
	buf[LEN - 1] = 1;
	small_store(f, buf, LEN);
	pack_path(f->dir, path, sizeof(path));
	/* the fourth chunk, wherever it is */
	memcpy(needle, buf + 3 * 65536 + 1000, sizeof(needle));
	cleanup_free uint8_t *pack = malloc((size_t)size_of(path));
	cleanup_fd int fd = open(path, O_RDONLY);
	assert_int_equal(pread_full(fd, pack, (size_t)size_of(path), 0), 0);
	uint8_t *hit = memmem(pack, (size_t)size_of(path), needle, sizeof(needle));
	assert_non_null(hit);
	flip(path, (uint64_t)(hit - pack), 4);
	reopen(f, 0);

	ok(f, get_snapshot(f, "a", &c));
	ok(f, smfs_file_open(f->s, &c, &file, &f->err));
	for (int i = 0; i < 20; i++) {
		ssize_t n = smfs_file_pread(file, got, 65536, (uint64_t)i * 65536, &f->err);

		if (i == 3) {
			assert_int_equal(n, -EBADMSG);
			assert_non_null(strstr(f->err.msg, "bad checksum"));
		} else {
			assert_int_equal(n, 65536);
			assert_memory_equal(got, buf + i * 65536, 65536);
		}
	}
	/* one byte of it, through the cache, is no better */
	assert_int_equal(smfs_file_pread(file, got, 1, 3 * 65536, &f->err), -EBADMSG);
	smfs_file_close(file);
	assert_int_equal(check(f->s, SMFS_FSCK_READ_DATA, &l, &f->err), -EBADMSG);
	assert_int_equal(l.hits, 1);
	/* the frame, and each of the two names that reach it */
	assert_int_equal(l.n, 3);
}

static void a_cut_or_lost_pack_is_reported(void **state)
{
	struct fixture *f = *state;
	uint8_t buf[66000];
	char path[256];
	struct lines l = {0};

	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)(i / 3000 + 1);
	small_store(f, buf, sizeof(buf));
	pack_path(f->dir, path, sizeof(path));
	for (off_t size = size_of(path) - 1; size >= 0; size -= 7) {
		assert_int_equal(truncate(path, size), 0);
		reopen(f, 0);
		right_or_refused(f, "a", buf, sizeof(buf));
		assert_int_equal(check(f->s, 0, &l, &f->err), -EBADMSG);
	}
	/* a damaged pack is not appended to */
	struct smfs_content c;
	put_snapshot(f, "new", "fresh", 5, &c);
	assert_int_equal(right_or_refused(f, "new", (const uint8_t *)"fresh", 5), 1);
	unlink(path);
	reopen(f, 0);
	assert_int_equal(right_or_refused(f, "tiny", buf, 14), 0);
	assert_int_equal(right_or_refused(f, "new", (const uint8_t *)"fresh", 5), 1);
	assert_int_equal(check(f->s, 0, &l, &f->err), -EBADMSG);
}

static void every_flipped_byte_of_the_journal_is_found(void **state)
{
	struct fixture *f = *state;
	struct smfs_content c;
	char path[128];

	put_snapshot(f, "a", "one", 3, &c);
	ok(f, smfs_name_rename(f->s, SMFS_SNAPSHOT, "a", "b", &f->err));
	snprintf(path, sizeof(path), "%s/journal", f->dir);
	for (off_t off = 0, size = size_of(path); off < size; off++) {
		struct lines l = {0};

		flip(path, off, 0x10);
		smfs_store_close(f->s);
		f->s = NULL;
		if (smfs_store_open(f->dir, 0, &f->s, &f->err) < 0) {
			assert_int_equal(f->err.code, EBADMSG);
			assert_true(off < 64);
		} else if (check(f->s, 0, &l, &f->err) != -EBADMSG) {
			fail_msg("byte %ld of the journal: not found", (long)off);
		}
		flip(path, off, 0x10);
	}
	reopen(f, 0);
}

static void a_torn_tail_is_cut_off(void **state)
{
	struct fixture *f = *state;
	struct smfs_content c;
	char journal[128], pack[256];
	struct lines l = {0};

	put_snapshot(f, "a", "one", 3, &c);
	snprintf(journal, sizeof(journal), "%s/journal", f->dir);
	pack_path(f->dir, pack, sizeof(pack));
	off_t jsize = size_of(journal), psize = size_of(pack);
	/* what a writer leaves that died between its appends and the index's commit */
	for (int i = 0; i < 2; i++) {
		cleanup_fd int fd = open(i ? journal : pack, O_WRONLY | O_APPEND);
		char junk[5000];

		memset(junk, 0xee, sizeof(junk));
		assert_int_equal(write_full(fd, junk, sizeof(junk)), 0);
	}
	reopen(f, 0);
	ok(f, check(f->s, SMFS_FSCK_READ_DATA, &l, &f->err));
	put_snapshot(f, "b", "two", 3, &c);
	ok(f, check(f->s, SMFS_FSCK_READ_DATA, &l, &f->err));
	assert_true(size_of(journal) < jsize + 5000);
	assert_true(size_of(pack) < psize + 5000);
	assert_int_equal(right_or_refused(f, "a", (const uint8_t *)"one", 3), 1);
}

static void a_damaged_format_file_is_refused(void **state)
{
	struct fixture *f = *state;
	char path[128];
	struct smfs_store *s = NULL;

	snprintf(path, sizeof(path), "%s/format", f->dir);
	smfs_store_close(f->s);
	f->s = NULL;
	for (off_t size = size_of(path), off = 0; off < size; off++) {
		flip(path, off, 0x40);
		int r = smfs_store_open(f->dir, 0, &s, &f->err);
		/* another digit of the creation time or uuid: the packs and journal disagree then
		 */
		if (r == 0)
			smfs_store_close(s);
		else
			assert_true(r == -EBADMSG || r == -ENOTSUP);
		flip(path, off, 0x40);
	}
	cleanup_fd int fd = open(path, O_WRONLY | O_TRUNC);
	assert_int_equal(write_full(fd, "smfs-store 2\nwhatever\n", 22), 0);
	assert_int_equal(smfs_store_open(f->dir, 0, &s, &f->err), -ENOTSUP);
}

/* In a process of its own: what a damaged index does to it must not be death. */
static void survives(struct fixture *f, const char *what, long where)
{
	fflush(NULL);
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		struct lines l = {0};
		struct smfs_content c;

		if (smfs_store_open(f->dir, 0, &f->s, &f->err) == 0) {
			check(f->s, 0, &l, &f->err);
			get_snapshot(f, "a", &c);
			smfs_store_close(f->s);
		}
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (status)
		fail_msg("%s at %ld: status %x", what, where, (unsigned)status);
}

static void a_cut_index_is_survived_and_seen(void **state)
{
	struct fixture *f = *state;
	struct smfs_content c;
	struct lines l = {0};
	char path[128];

	put_snapshot(f, "a", "one", 3, &c);
	put_snapshot(f, "b", "two", 3, &c);
	smfs_store_close(f->s);
	f->s = NULL;
	snprintf(path, sizeof(path), "%s/index/data.mdb", f->dir);
	for (off_t size = size_of(path) - 4096; size >= 0; size -= 4096) {
		assert_int_equal(truncate(path, size), 0);
		survives(f, "index cut", size);
	}
	/* an empty file is no empty store */
	assert_int_equal(truncate(path, 0), 0);
	int r = smfs_store_open(f->dir, 0, &f->s, &f->err);
	if (r == 0)
		r = check(f->s, 0, &l, &f->err);
	assert_int_equal(r, -EBADMSG);
}

#define store_test(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		store_test(a_clean_store_has_no_findings),
		store_test(every_flipped_byte_of_a_pack_is_found),
		store_test(a_bad_frame_hits_its_own_bytes_only),
		store_test(a_cut_or_lost_pack_is_reported),
		store_test(every_flipped_byte_of_the_journal_is_found),
		store_test(a_torn_tail_is_cut_off),
		store_test(a_damaged_format_file_is_refused),
		store_test(a_cut_index_is_survived_and_seen),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
