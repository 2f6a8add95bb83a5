/* Repair and packs: torn tails, forged and damaged frames, and how damage heals. */
#include "repair_store.h"

#include "smfs/base/io.h"
#include "smfs/store/format.h"

#include <dirent.h>
#include <signal.h>
#include <sys/wait.h>

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

#define store_test(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		store_test(a_tail_nobody_vouched_for_is_kept),
		store_test(a_torn_tail_hides_nothing),
		store_test(frames_inside_a_file_are_not_believed),
		store_test(damage_that_nobody_needs_goes_with_its_pack),
		store_test(damage_that_is_needed_keeps_its_pack),
		store_test(content_found_bad_by_a_check_heals),
		store_test(content_found_bad_by_a_read_heals),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
