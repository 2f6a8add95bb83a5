/* Snapshots on their way: what is recorded of them, who may write one, and what ends a record. */
#include "store_util.h"

#include <dirent.h>
#include <signal.h>
#include <sys/wait.h>

static size_t list(struct fixture *f, struct smfs_pending *out)
{
	struct smfs_pending *v;
	size_t n;

	ok(f, smfs_pending_list(f->s, &v, &n, &f->err));
	if (n)
		*out = v[0];
	free(v);
	return n;
}

static unsigned files(struct fixture *f)
{
	char path[128];
	unsigned n = 0;

	snprintf(path, sizeof(path), "%s/pending", f->dir);
	DIR *d = opendir(path);
	for (struct dirent *e; d && (e = readdir(d));)
		n += e->d_name[0] != '.';
	if (d)
		closedir(d);
	return n;
}

static void publish(struct fixture *f, const char *name)
{
	struct smfs_content c;

	put_snapshot(f, name, "data", 4, &c);
}

static void test_writing_then_ready(void **state)
{
	struct fixture *f = *state;
	struct smfs_pending p;
	int fd;

	assert_int_equal(list(f, &p), 0);
	ok(f, smfs_pending_begin(f->s, "one", "VM a", &fd, &f->err));
	assert_int_equal(list(f, &p), 1);
	assert_string_equal(p.name, "one");
	assert_string_equal(p.by, "VM a");
	assert_string_equal(p.reason, "");
	assert_int_equal(p.state, SMFS_PENDING_WRITING);
	assert_int_equal(p.pid, getpid());
	assert_true(p.began > 0 && p.ended == 0);
	/* Published, though the record is still there: ready, and nothing else. */
	publish(f, "one");
	assert_int_equal(list(f, &p), 0);
	assert_int_equal(files(f), 1);
	smfs_pending_done(f->s, "one");
	close(fd);
	assert_int_equal(files(f), 0);
}

static void test_a_name_has_one_writer(void **state)
{
	struct fixture *f = *state;
	int fd, other;

	ok(f, smfs_pending_begin(f->s, "one", "VM a", &fd, &f->err));
	assert_int_equal(smfs_pending_begin(f->s, "one", "VM b", &other, &f->err), -EBUSY);
	assert_non_null(strstr(f->err.msg, "VM a"));
	assert_int_equal(other, -1);
	err_clear(&f->err);
	assert_int_equal(smfs_pending_remove(f->s, "one", &f->err), -EBUSY);
	err_clear(&f->err);
	ok(f, smfs_pending_begin(f->s, "two", "VM b", &other, &f->err));
	close(other);
	close(fd);
	publish(f, "three");
	assert_int_equal(smfs_pending_begin(f->s, "three", "VM a", &fd, &f->err), -EEXIST);
	err_clear(&f->err);
	assert_int_equal(smfs_pending_begin(f->s, "../x", "VM a", &fd, &f->err), -EINVAL);
}

static void test_failed_for_a_reason(void **state)
{
	struct fixture *f = *state;
	struct smfs_pending p;
	int fd;

	ok(f, smfs_pending_begin(f->s, "one", "VM a", &fd, &f->err));
	ok(f, smfs_pending_fail(fd, "disk\tfull\nof it", &f->err));
	close(fd);
	reopen(f, 0);
	assert_int_equal(list(f, &p), 1);
	assert_int_equal(p.state, SMFS_PENDING_FAILED);
	assert_string_equal(p.reason, "disk full of it");
	assert_true(p.ended >= p.began);
	/* It is begun again: the failure is forgotten. */
	ok(f, smfs_pending_begin(f->s, "one", "VM b", &fd, &f->err));
	assert_int_equal(list(f, &p), 1);
	assert_int_equal(p.state, SMFS_PENDING_WRITING);
	assert_string_equal(p.by, "VM b");
	close(fd);
	ok(f, smfs_pending_remove(f->s, "one", &f->err));
	assert_int_equal(list(f, &p), 0);
	assert_int_equal(files(f), 0);
	assert_int_equal(smfs_pending_remove(f->s, "one", &f->err), -ENOENT);
}

static void test_publishing_and_removing_forget_failures(void **state)
{
	struct fixture *f = *state;
	const char *const names[] = {"made", "moved"};

	for (int i = 0; i < 2; i++) {
		int fd;

		ok(f, smfs_pending_begin(f->s, names[i], "VM a", &fd, &f->err));
		close(fd);
	}
	publish(f, "made");
	assert_int_equal(files(f), 1);
	ok(f, smfs_name_rename(f->s, SMFS_SNAPSHOT, "made", "moved", &f->err));
	assert_int_equal(files(f), 0);
	ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "moved", &f->err));
}

/* Begun by a process that then is killed; its child holds the record until it is killed, too. */
static void test_death_is_failure(void **state)
{
	struct fixture *f = *state;
	struct smfs_pending p;
	int up[2];
	char c;

	smfs_store_close(f->s);
	assert_int_equal(pipe(up), 0);
	pid_t parent = fork();
	if (parent == 0) {
		struct smfs_store *s;
		int fd;

		if (smfs_store_open(f->dir, 0, &s, NULL) < 0 ||
		    smfs_pending_begin(s, "one", "VM a", &fd, NULL) < 0)
			_exit(1);
		pid_t child = fork();
		if (child == 0)
			for (;;)
				pause();
		if (write(up[1], &child, sizeof(child)) != sizeof(child))
			_exit(1);
		for (;;)
			pause();
	}
	pid_t child;
	assert_int_equal(read(up[0], &child, sizeof(child)), sizeof(child));
	ok(f, smfs_store_open(f->dir, SMFS_RDONLY, &f->s, &f->err));
	kill(parent, SIGKILL);
	waitpid(parent, NULL, 0);
	assert_int_equal(list(f, &p), 1);
	assert_int_equal(p.state, SMFS_PENDING_WRITING);
	kill(child, SIGKILL);
	/* The pipe's last writer is gone with it, and so are its other descriptors. */
	close(up[1]);
	assert_int_equal(read(up[0], &c, 1), 0);
	for (int i = 0; i < 60000 && list(f, &p) == 1 && p.state == SMFS_PENDING_WRITING; i++)
		usleep(1000);
	assert_int_equal(p.state, SMFS_PENDING_FAILED);
	assert_non_null(strstr(p.reason, "its writer ended"));
	assert_int_equal(p.ended, 0);
	/* A writer writes it down, once. */
	reopen(f, 0);
	assert_int_equal(list(f, &p), 1);
	assert_int_equal(list(f, &p), 1);
	const int64_t ended = p.ended;
	assert_true(ended >= p.began);
	assert_int_equal(list(f, &p), 1);
	assert_int_equal(p.ended, ended);
	assert_non_null(strstr(p.reason, "its writer ended"));
	close(up[0]);
}

static void test_what_is_torn_was_never_begun(void **state)
{
	struct fixture *f = *state;
	struct smfs_pending p;
	char path[128], cmd[512];
	int fd;

	ok(f, smfs_pending_begin(f->s, "one", "VM a", &fd, &f->err));
	close(fd);
	snprintf(path, sizeof(path), "%s/pending", f->dir);
	DIR *d = opendir(path);
	for (struct dirent *e; (e = readdir(d));)
		if (e->d_name[0] != '.')
			snprintf(cmd, sizeof(cmd), "%s/%s", path, e->d_name);
	closedir(d);
	for (off_t at = 0; at < 4096; at += 61) {
		uint8_t b;

		ok(f, smfs_pending_begin(f->s, "one", "VM a", &fd, &f->err));
		close(fd);
		fd = open(cmd, O_RDWR);
		assert_int_equal(pread(fd, &b, 1, at), 1);
		b ^= 0x40;
		assert_int_equal(pwrite(fd, &b, 1, at), 1);
		close(fd);
		/* A whole second half is no condition: without it, it has failed as it stands. */
		assert_int_equal(list(f, &p), at < 2048 ? 0 : 1);
		assert_int_equal(files(f), at < 2048 ? 0 : 1);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_writing_then_ready, fixture_setup,
						fixture_teardown),
		cmocka_unit_test_setup_teardown(test_a_name_has_one_writer, fixture_setup,
						fixture_teardown),
		cmocka_unit_test_setup_teardown(test_failed_for_a_reason, fixture_setup,
						fixture_teardown),
		cmocka_unit_test_setup_teardown(test_publishing_and_removing_forget_failures,
						fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(test_death_is_failure, fixture_setup,
						fixture_teardown),
		cmocka_unit_test_setup_teardown(test_what_is_torn_was_never_begun, fixture_setup,
						fixture_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
