/* The run directory, the control socket, and finding images and snapshots in a mount. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "runner/control/control.h"
#include "runner/control/identity.h"
#include "runner/control/rundir.h"
#include "runner/control/spawn.h"
#include "runner/control/where.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"

static char base[] = "/tmp/smvm-control.XXXXXX";

static int setup(void **state)
{
	if (!mkdtemp(base))
		return -1;
	setenv("SMVM_RUN_DIR", base, 1);
	unsetenv("SMFS_STORE");
	return 0;
}

static int teardown(void **state)
{
	return rmdir(base);
}

static void a_vm_is_found_by_name_id_and_prefix(void **state)
{
	struct rundir *d, *found;
	struct err err = ERR_INIT;
	char prefix[5];

	assert_int_equal(rundir_create("web.1", &d, &err), 0);
	assert_int_equal(rundir_find("web.1", &found, &err), 0);
	assert_string_equal(found->info.id, d->info.id);
	rundir_release(found);
	assert_int_equal(rundir_find(d->info.id, &found, &err), 0);
	rundir_release(found);
	snprintf(prefix, sizeof(prefix), "%.4s", d->info.id);
	assert_int_equal(rundir_find(prefix, &found, &err), 0);
	rundir_release(found);
	assert_int_equal(rundir_find("web", &found, &err), -ENOENT);
	rundir_remove(d);
	assert_int_equal(rundir_find("web.1", &found, &err), -ENOENT);
}

static void a_name_is_taken_once(void **state)
{
	struct rundir *d, *other;
	struct err err = ERR_INIT;

	assert_int_equal(rundir_create("one", &d, &err), 0);
	assert_int_equal(rundir_create("one", &other, &err), -EEXIST);
	/* Commands would reach whichever is older. */
	assert_int_equal(rundir_create(d->info.id, &other, &err), -EEXIST);
	rundir_remove(d);
	assert_int_equal(rundir_create("one", &d, &err), 0);
	rundir_remove(d);
}

static void a_directory_of_others_is_refused(void **state)
{
	struct err err = ERR_INIT;
	struct rundir *d;

	assert_int_equal(chmod(base, 0777), 0);
	assert_int_equal(rundir_create("open", &d, &err), -EPERM);
	assert_int_equal(chmod(base, 0700), 0);
}

static void names_that_could_be_paths_are_refused(void **state)
{
	static const char *const bad[] = {"", ".", "..", "a/b", "-x", ".a", "a b", "a\n"};
	struct err err = ERR_INIT;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(rundir_name_check(bad[i], &err), -EINVAL);
	assert_int_equal(rundir_name_check("a.b_c-9", &err), 0);
}

static void a_dead_owner_leaves_nothing(void **state)
{
	struct err err = ERR_INIT;
	struct rundir **all;
	size_t n;
	pid_t pid = fork();

	if (pid == 0) {
		struct rundir *d;

		_exit(rundir_create("dead", &d, NULL) == 0 ? 0 : 1);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(rundir_list(&all, &n, &err), 0);
	assert_int_equal(n, 0);
	/* teardown's rmdir proves that the directory went, too */
}

static int op_echo(void *arg, struct control_request *rq, const json_t *body, json_t *reply,
		   struct err *err)
{
	json_object_set(reply, "said", json_object_get(body, "say"));
	return 0;
}

static int op_refuse(void *arg, struct control_request *rq, const json_t *body, json_t *reply,
		     struct err *err)
{
	return err_set(err, EBUSY, "snapshot x: one is being written");
}

static int op_garbled(void *arg, struct control_request *rq, const json_t *body, json_t *reply,
		      struct err *err)
{
	return err_set(err, EIO, "guest: \xff\033[2J\xc3");
}

static void take(void *arg, int fd)
{
	assert_int_equal(write_full(fd, "raw", 3), 0);
	close(fd);
}

static int op_raw(void *arg, struct control_request *rq, const json_t *body, json_t *reply,
		  struct err *err)
{
	control_detach(rq, take, NULL);
	return 0;
}

/* The answer waits until `later.fd` is readable. */
static struct {
	struct control *c;
	uint64_t who;
	int fd, ticks;
} later;

static void later_event(void *arg, bool readable)
{
	if (!readable) {
		later.ticks++;
		return;
	}
	control_watch(later.c, -1, -1, NULL, NULL, NULL);
	control_answer(later.c, later.who, 0, json_pack("{s:i}", "ticks", later.ticks), NULL);
}

static int op_later(void *arg, struct control_request *rq, const json_t *body, json_t *reply,
		    struct err *err)
{
	int r = control_watch(later.c, later.fd, 5, later_event, NULL, err);

	if (r == 0)
		later.who = control_defer(rq);
	return r;
}

static const struct control_op ops[] = {{"echo", op_echo},	 {"refuse", op_refuse},
					{"garbled", op_garbled}, {"raw", op_raw},
					{"later", op_later},	 {0}};

struct server {
	struct control *c;
	int end_fd;
	pthread_t thread;
	char path[64];
};

static void *serve(void *arg)
{
	struct server *s = arg;

	return (void *)(intptr_t)control_serve(s->c, s->end_fd, NULL);
}

static void server_start(struct server *s)
{
	struct err err = ERR_INIT;

	snprintf(s->path, sizeof(s->path), "%s/c.sock", base);
	s->end_fd = eventfd(0, EFD_CLOEXEC);
	assert_int_equal(control_listen(s->path, ops, NULL, &s->c, &err), 0);
	assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
}

static void server_stop(struct server *s)
{
	void *r;

	eventfd_write(s->end_fd, 1);
	pthread_join(s->thread, &r);
	assert_null(r);
	control_free(s->c);
	close(s->end_fd);
}

static void requests_are_answered_or_refused_with_the_reason(void **state)
{
	struct err err = ERR_INIT;
	struct server s;
	json_t *reply;

	server_start(&s);
	assert_int_equal(control_call(s.path, json_pack("{s:s, s:s}", "op", "echo", "say", "hi"),
				      5000, &reply, NULL, &err),
			 0);
	assert_string_equal(json_string_value(json_object_get(reply, "said")), "hi");
	json_decref(reply);
	assert_int_equal(
		control_call(s.path, json_pack("{s:s}", "op", "refuse"), 5000, NULL, NULL, &err),
		-EBUSY);
	assert_string_equal(err.msg, "snapshot x: one is being written");
	/* A guest's words that JSON cannot hold do not cost the caller the answer. */
	assert_int_equal(
		control_call(s.path, json_pack("{s:s}", "op", "garbled"), 5000, NULL, NULL, &err),
		-EIO);
	assert_string_equal(err.msg, "guest: ??[2J?");
	assert_int_equal(
		control_call(s.path, json_pack("{s:s}", "op", "fly"), 5000, NULL, NULL, &err),
		-EPROTO);
	assert_int_equal(control_call(s.path, json_pack("[s]", "op"), 5000, NULL, NULL, &err),
			 -EPROTO);
	server_stop(&s);
	assert_int_equal(
		control_call(s.path, json_pack("{s:s}", "op", "echo"), 5000, NULL, NULL, &err),
		-ENOENT);
}

static void *call_later(void *path)
{
	struct err err = ERR_INIT;
	json_t *reply = NULL;

	if (control_call(path, json_pack("{s:s}", "op", "later"), 20000, &reply, NULL, &err) < 0)
		return NULL;
	return reply;
}

static void an_answer_may_come_later(void **state)
{
	const uint64_t one = 1;
	struct err err = ERR_INIT;
	struct server s;
	pthread_t caller;
	json_t *reply;
	void *got;
	int r;

	later.fd = eventfd(0, EFD_CLOEXEC);
	assert_true(later.fd >= 0);
	server_start(&s);
	later.c = s.c;
	/* A client that does not wait is forgotten, and the next one is not given its answer. */
	assert_int_equal(
		control_call(s.path, json_pack("{s:s}", "op", "later"), 50, &reply, NULL, &err),
		-ETIMEDOUT);
	assert_int_equal(pthread_create(&caller, NULL, call_later, s.path), 0);
	pthread_join(caller, &got);
	assert_null(got); /* refused: something is watched */
	/* Others are served meanwhile. */
	r = control_call(s.path, json_pack("{s:s, s:s}", "op", "echo", "say", "x"), 5000, &reply,
			 NULL, &err);
	assert_int_equal(r, 0);
	json_decref(reply);
	assert_int_equal(write(later.fd, &one, sizeof(one)), sizeof(one));
	/* The watch is free again once that has been seen. */
	close(later.fd);
	server_stop(&s);

	later.fd = eventfd(0, EFD_CLOEXEC);
	later.ticks = 0;
	server_start(&s);
	later.c = s.c;
	assert_int_equal(pthread_create(&caller, NULL, call_later, s.path), 0);
	for (int i = 0; i < 5; i++) {
		r = control_call(s.path, json_pack("{s:s, s:s}", "op", "echo", "say", "x"), 5000,
				 &reply, NULL, &err);
		assert_int_equal(r, 0);
		json_decref(reply);
	}
	assert_int_equal(write(later.fd, &one, sizeof(one)), sizeof(one));
	pthread_join(caller, &got);
	assert_non_null(got);
	assert_true(json_is_true(json_object_get(got, "ok")));
	assert_true(json_is_integer(json_object_get(got, "ticks")));
	json_decref(got);
	server_stop(&s);
	close(later.fd);
}

static void a_connection_can_become_raw(void **state)
{
	struct err err = ERR_INIT;
	struct server s;
	char buf[4] = "";
	int fd;

	server_start(&s);
	assert_int_equal(
		control_call(s.path, json_pack("{s:s}", "op", "raw"), 5000, NULL, &fd, &err), 0);
	assert_int_equal(read_full(fd, buf, 3), 0);
	assert_string_equal(buf, "raw");
	close(fd);
	server_stop(&s);
}

static int connect_raw(const char *path)
{
	/* control_call() cannot send garbage, so speak to the socket directly. */
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	return fd;
}

static void garbage_and_endless_lines_harm_nobody(void **state)
{
	struct err err = ERR_INIT;
	struct server s;
	char *big = malloc(CONTROL_LINE_MAX + 1);
	char c;

	server_start(&s);
	memset(big, 'x', CONTROL_LINE_MAX + 1);
	int fd = connect_raw(s.path);
	(void)!send(fd, big, CONTROL_LINE_MAX + 1, MSG_NOSIGNAL);
	assert_true(read(fd, &c, 1) <= 0);
	close(fd);
	int silent = connect_raw(s.path); /* says nothing, must not be in the way */
	fd = connect_raw(s.path);
	assert_int_equal(write_full(fd, "\0\377{\n", 4), 0);
	assert_int_equal(read_full(fd, &c, 1), 0);
	assert_int_equal(c, '{');
	close(fd);
	assert_int_equal(
		control_call(s.path, json_pack("{s:s}", "op", "echo"), 5000, NULL, NULL, &err), 0);
	close(silent);
	server_stop(&s);
	free(big);
}

static int body_ok(struct spawn_child *c, struct rundir *d, void *arg, struct err *err)
{
	spawn_ready(c, json_pack("{s:i}", "x", 7));
	return 0;
}

static int body_looks(struct spawn_child *c, struct rundir *d, void *arg, struct err *err)
{
	const int *fd = arg;

	spawn_ready(c, json_pack("{s:b, s:b}", "open", fcntl(*fd, F_GETFD) >= 0, "locked",
				 fcntl(d->lock_fd, F_GETFD) >= 0));
	return 0;
}

static int body_fails(struct spawn_child *c, struct rundir *d, void *arg, struct err *err)
{
	err_set(err, ENOTSUP, "restore s: other CPU");
	return 1;
}

/* As a restore whose hooks said too much; the VM itself would run on. */
static int body_says_too_much(struct spawn_child *c, struct rundir *d, void *arg, struct err *err)
{
	size_t n = 2 * SPAWN_REPORT_MAX;
	char *text = malloc(n + 1);

	memset(text, 'x', n);
	text[n] = '\0';
	signal(SIGPIPE, SIG_IGN);
	spawn_ready(c, json_pack("{s:s}", "x", text));
	free(text);
	return pause();
}

static int body_dies(struct spawn_child *c, struct rundir *d, void *arg, struct err *err)
{
	_exit(9);
}

static int spawn_vm(struct rundir *d, spawn_body body, void *arg, json_t **details, struct err *err)
{
	struct spawn child;
	int r = spawn_begin(d, false, body, arg, &child, err);

	return r < 0 ? r : spawn_finish(&child, details, err);
}

static void a_vm_process_reports_its_start(void **state)
{
	struct err err = ERR_INIT;
	json_t *details = NULL;
	struct rundir *d;

	assert_int_equal(rundir_create(NULL, &d, &err), 0);
	assert_int_equal(spawn_vm(d, body_ok, NULL, &details, &err), 0);
	assert_int_equal(json_integer_value(json_object_get(details, "x")), 7);
	json_decref(details);
	assert_true(waitpid(d->info.pid, NULL, 0) > 0);
	rundir_release(d);

	/* It keeps its directory's lock, and nothing that its starter happens to have open. */
	int fds[2];
	assert_int_equal(pipe(fds), 0);
	assert_int_equal(rundir_create(NULL, &d, &err), 0);
	assert_int_equal(spawn_vm(d, body_looks, &fds[1], &details, &err), 0);
	assert_true(json_is_false(json_object_get(details, "open")));
	assert_true(json_is_true(json_object_get(details, "locked")));
	json_decref(details);
	assert_true(waitpid(d->info.pid, NULL, 0) > 0);
	rundir_release(d);
	close(fds[0]);
	close(fds[1]);

	assert_int_equal(rundir_create(NULL, &d, &err), 0);
	assert_int_equal(spawn_vm(d, body_fails, NULL, NULL, &err), -ENOTSUP);
	assert_string_equal(err.msg, "restore s: other CPU");
	rundir_release(d);

	assert_int_equal(rundir_create(NULL, &d, &err), 0);
	assert_int_equal(spawn_vm(d, body_dies, NULL, NULL, &err), -EIO);
	rundir_release(d);

	assert_int_equal(rundir_create(NULL, &d, &err), 0);
	assert_int_equal(spawn_vm(d, body_says_too_much, NULL, NULL, &err), -EIO);
	assert_int_equal(kill(d->info.pid, 0), -1);
	rundir_release(d);
	struct rundir **all;
	size_t n;
	assert_int_equal(rundir_list(&all, &n, &err), 0); /* sweeps the one that died */
	assert_int_equal(n, 0);
}

static void make(const char *fmt, const char *dir)
{
	char path[256];
	struct err err = ERR_INIT;

	snprintf(path, sizeof(path), fmt, dir);
	if (path[strlen(path) - 1] == '/')
		assert_int_equal(mkdir(path, 0700), 0);
	else
		assert_int_equal(write_file_atomic(AT_FDCWD, path, "/s\n", 3, 0600, &err), 0);
}

static void images_and_snapshots_are_found_in_the_mount(void **state)
{
	char m[] = "/tmp/smvm-where.XXXXXX", dir[PATH_MAX], ref[512], store[PATH_MAX], cmd[128];
	char longer[PATH_MAX + 16];
	struct err err = ERR_INIT;

	assert_non_null(mkdtemp(m));
	assert_int_equal(where_image(m, "alpine", dir, ref, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "is not an smfs mount"));
	assert_int_equal(where_store(m, store, &err), -ENOENT);
	make("%s/.smfs/", m);
	make("%s/.smfs/store", m);
	make("%s/images/", m);
	make("%s/images/docker.io/", m);
	make("%s/images/docker.io/library/", m);
	make("%s/images/docker.io/library/alpine:latest/", m);
	make("%s/images/docker.io/library/alpine:latest/config.json", m);
	make("%s/images/localhost:5000/", m);
	make("%s/images/localhost:5000/py:1/", m);
	make("%s/images/localhost:5000/py:1/config.json", m);
	make("%s/snapshots/", m);
	make("%s/snapshots/x/", m);
	assert_int_equal(where_store(m, store, &err), 0);
	assert_string_equal(store, "/s");
	assert_int_equal(where_image(m, "alpine", dir, ref, &err), 0);
	assert_string_equal(ref, "docker.io/library/alpine:latest");
	assert_int_equal(where_image(m, "localhost:5000/py:1", dir, ref, &err), 0);
	assert_string_equal(ref, "localhost:5000/py:1");
	assert_int_equal(where_image(m, "localhost:5000/py", dir, ref, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "smvm-pull"));
	assert_int_equal(where_image(m, "../../etc", dir, ref, &err), -ENOENT);
	assert_int_equal(where_image(m, "a/../../etc", dir, ref, &err), -EINVAL);
	assert_int_equal(where_snapshot(m, "x", dir, &err), 0);
	assert_int_equal(where_snapshot(m, "snapshots/x", dir, &err), 0);
	assert_int_equal(where_snapshot(m, dir, store, &err), 0);
	assert_int_equal(where_snapshot(m, "y", dir, &err), -ENOENT);
	/* One that is too long is not another that it begins with. */
	memset(longer, '/', sizeof(longer));
	memcpy(longer, m, strlen(m));
	strcpy(longer + PATH_MAX, "/other");
	assert_int_equal(where_snapshot(m, longer, dir, &err), -ENAMETOOLONG);
	snprintf(cmd, sizeof(cmd), "rm -r %s", m);
	assert_int_equal(system(cmd), 0);
}

static void identities_are_well_formed_and_differ(void **state)
{
	uint8_t a[16], b[16];
	struct err err = ERR_INIT;
	cleanup_free char *host = identity_hostname("Web_1.x"), *id = NULL;

	assert_int_equal(identity_uuid(a, &err), 0);
	assert_int_equal(identity_uuid(b, &err), 0);
	assert_memory_not_equal(a, b, 16);
	assert_int_equal(a[6] >> 4, 4);
	assert_string_equal(host, "Web-1-x");
	id = identity_machine_id(a);
	assert_int_equal(strlen(id), 32);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_vm_is_found_by_name_id_and_prefix),
		cmocka_unit_test(a_name_is_taken_once),
		cmocka_unit_test(a_directory_of_others_is_refused),
		cmocka_unit_test(names_that_could_be_paths_are_refused),
		cmocka_unit_test(a_dead_owner_leaves_nothing),
		cmocka_unit_test(requests_are_answered_or_refused_with_the_reason),
		cmocka_unit_test(an_answer_may_come_later),
		cmocka_unit_test(a_connection_can_become_raw),
		cmocka_unit_test(garbage_and_endless_lines_harm_nobody),
		cmocka_unit_test(a_vm_process_reports_its_start),
		cmocka_unit_test(images_and_snapshots_are_found_in_the_mount),
		cmocka_unit_test(identities_are_well_formed_and_differ),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
