/*
 * Process 1's loop over connections: who serves them, the session that awaits the next one, what
 * it knows, and what becomes of it.
 *
 * init_run() in a child of the test, listening on a Unix socket in place of vsock. Which CID a peer
 * has accept4() is told by the test, which is linked before the C library's.
 */
#include "tests/unit/agent_session.h"

#include "runner/agent/init.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/unix_socket.h"

#include <dirent.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include <linux/vm_sockets.h>

/* Of the peers to come. Shared with process 1 and its sessions. */
static unsigned *peer_cid;

int accept4(int fd, struct sockaddr *a, socklen_t *len, int flags)
{
	const long got = syscall(SYS_accept4, fd, NULL, NULL, flags);
	struct sockaddr_vm peer = {.svm_family = AF_VSOCK, .svm_cid = *peer_cid};

	if (got >= 0 && a) {
		memcpy(a, &peer, MIN(*len, (socklen_t)sizeof(peer)));
		*len = sizeof(peer);
	}
	return (int)got;
}

struct one {
	struct fixture *x;
	char path[80];
	pid_t pid;
};

static int start(void **state)
{
	struct one *o = calloc(1, sizeof(*o));
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	void *x;

	assert_non_null(o);
	setup(&x);
	o->x = x;
	*peer_cid = VMADDR_CID_HOST;
	snprintf(o->path, sizeof(o->path), "%s/vsock", o->x->root);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", o->path);
	cleanup_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 64), 0);
	o->pid = fork();
	assert_true(o->pid >= 0);
	if (o->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
		init_run(&o->x->g, fd);
		_exit(0);
	}
	*state = o;
	return 0;
}

static unsigned children(pid_t of, pid_t *list, unsigned max);

static int finish(void **state)
{
	struct one *o = *state;
	pid_t left[INIT_SESSIONS_MAX];
	void *x = o->x;

	/* Whoever still waits: in a guest nobody outlives process 1. */
	kill(o->pid, SIGSTOP);
	for (unsigned n = children(o->pid, left, INIT_SESSIONS_MAX); n--;)
		kill(left[n], SIGKILL);
	kill(o->pid, SIGKILL);
	waitpid(o->pid, NULL, 0);
	free(o);
	return teardown(&x);
}

/* Living ones. */
static unsigned children(pid_t of, pid_t *list, unsigned max)
{
	char path[64], text[512];
	struct dirent *e;
	unsigned n = 0;
	DIR *d = opendir("/proc");

	assert_non_null(d);
	while ((e = readdir(d)) && n < max) {
		const char *p;
		char how;
		int parent;

		snprintf(path, sizeof(path), "/proc/%.20s/stat", e->d_name);
		cleanup_fd int fd = e->d_name[0] >= '0' && e->d_name[0] <= '9'
					    ? open(path, O_RDONLY | O_CLOEXEC)
					    : -1;
		const ssize_t k = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
		if (k <= 0)
			continue;
		text[k] = '\0';
		p = strrchr(text, ')');
		if (p && sscanf(p + 1, " %c %d", &how, &parent) == 2 && parent == of && how != 'Z')
			list[n++] = atoi(e->d_name);
	}
	closedir(d);
	return n;
}

/* Once there are as many. */
static void await(struct one *o, unsigned n, pid_t *list)
{
	pid_t all[INIT_SESSIONS_MAX];
	unsigned is = 0;

	for (int i = 0; i < 2000; i++) {
		is = children(o->pid, all, INIT_SESSIONS_MAX);
		if (is == n) {
			memcpy(list, all, n * sizeof(*list));
			return;
		}
		poll(NULL, 0, 5);
	}
	fail_msg("%u sessions, not %u", is, n);
}

/* The only one there is. */
static pid_t spare(struct one *o)
{
	pid_t p;

	await(o, 1, &p);
	return p;
}

/* The same, once it is none of `old`, which are on their way out. */
static pid_t next_spare(struct one *o, const pid_t *old, unsigned n)
{
	for (int i = 0; i < 2000; i++) {
		const pid_t p = spare(o);
		unsigned k = 0;

		while (k < n && old[k] != p)
			k++;
		if (k == n)
			return p;
		poll(NULL, 0, 5);
	}
	fail_msg("no other session");
	return 0;
}

/* Of two the one that is not `taken`. */
static pid_t other(struct one *o, pid_t taken)
{
	pid_t p[2];

	await(o, 2, p);
	assert_true(p[0] == taken || p[1] == taken);
	return p[0] == taken ? p[1] : p[0];
}

static struct agent *dial(struct one *o)
{
	struct agent *a = NULL;
	struct err e = ERR_INIT;
	int fd = unix_connect(o->path, MS, &e);

	assert_true(fd >= 0);
	if (agent_attach(fd, MS, &a, &e) < 0)
		fail_msg("%s", e.msg);
	return a;
}

/* How many it says there are, once that is `want`: who has ended may have yet to be reaped. */
static unsigned sessions(struct agent *a, unsigned want)
{
	struct agent_info info = {0};
	struct err e = ERR_INIT;

	for (int i = 0; i < 2000; i++) {
		assert_int_equal(agent_info(a, &info, MS, &e), 0);
		if (info.sessions == want)
			break;
		poll(NULL, 0, 5);
	}
	return info.sessions;
}

/* Which process serves it: a program's parent. Its last request. */
static pid_t server(struct agent *a)
{
	char *argv[] = {"sh", "-c", "echo $PPID", NULL};
	const struct agent_exec x = {.argv = argv};
	struct agent_output out;
	struct err e = ERR_INIT;

	if (agent_exec_capture(a, &x, NULL, 0, 100, MS, &out, &e) < 0)
		fail_msg("%s", e.msg);
	assert_int_equal(out.exit.value, 0);
	const pid_t p = atoi(out.out);
	agent_output_free(&out);
	agent_close(a);
	return p;
}

static void one_is_there_before_the_connection(void **state)
{
	struct one *o = *state;
	const pid_t first = spare(o);
	struct agent *a = dial(o), *b;

	assert_int_equal(sessions(a, 1), 1);
	/* Another takes its place, while it serves; and so on. */
	const pid_t second = other(o, first);
	b = dial(o);
	assert_int_equal(sessions(b, 2), 2);
	assert_int_equal(sessions(a, 2), 2);
	assert_int_equal(server(b), second);
	assert_int_equal(server(a), first);
	const pid_t third = next_spare(o, (const pid_t[]){first, second}, 2);
	a = dial(o);
	assert_int_equal(sessions(a, 1), 1);
	assert_int_equal(server(a), third);
}

static void the_next_one_is_made_when_it_is_in_nobodys_way(void **state)
{
	struct one *o = *state;
	pid_t p = spare(o);
	uint64_t t = monotonic_us();
	struct agent *a = dial(o);
	bool soon = false;

	/* While the session lasts, not at once. */
	other(o, p);
	assert_true(monotonic_us() - t > 200000);
	agent_close(a);
	p = next_spare(o, &p, 1);
	/* After its end, soon; tried until nobody had to wait for a processor. */
	for (int i = 0; i < 20 && !soon; i++) {
		t = monotonic_us();
		agent_close(dial(o));
		p = next_spare(o, &p, 1);
		soon = monotonic_us() - t < 200000;
	}
	assert_true(soon);
}

static void those_that_come_before_the_next_is_there_are_served(void **state)
{
	struct one *o = *state;
	struct agent *a[20];
	pid_t p[21];

	spare(o);
	for (unsigned i = 0; i < 20; i++)
		a[i] = dial(o);
	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(sessions(a[i], 20), 20);
	await(o, 21, p);
	for (unsigned i = 0; i < 20; i++)
		agent_close(a[i]);
	spare(o);
	a[0] = dial(o);
	assert_int_equal(sessions(a[0], 1), 1);
	agent_close(a[0]);
}

static void its_death_is_healed(void **state)
{
	struct one *o = *state;
	const pid_t first = spare(o);
	struct agent *a;
	pid_t p;

	/* Whoever comes meanwhile is served, by another, and counted once. */
	kill(first, SIGKILL);
	a = dial(o);
	assert_int_equal(sessions(a, 1), 1);
	p = server(a);
	assert_true(p != first);
	/* SIGTERM is what all get when the guest powers off. */
	for (int i = 0; i < 3; i++) {
		p = next_spare(o, &p, 1);
		kill(p, i ? SIGTERM : SIGKILL);
	}
	p = next_spare(o, &p, 1);
	a = dial(o);
	assert_int_equal(sessions(a, 1), 1);
	assert_int_equal(server(a), p);
}

static void one_that_dies_of_its_connection_is_counted_no_more(void **state)
{
	struct one *o = *state;
	const pid_t first = spare(o);
	struct agent *a = dial(o), *b;

	assert_int_equal(sessions(a, 1), 1);
	const pid_t second = other(o, first);
	kill(first, SIGKILL);
	assert_int_equal(next_spare(o, &first, 1), second);
	b = dial(o);
	assert_int_equal(sessions(b, 1), 1);
	assert_int_equal(server(b), second);
	agent_close(a);
}

/* It is older than what it is told by others, as one that was in a snapshot is. */
static void it_knows_what_the_guest_has_become_since(void **state)
{
	struct one *o = *state;
	const pid_t first = spare(o);
	struct agent_generation g = {.number = 7, .entropy_len = 32, .hostname = "restored"};
	struct agent_info info;
	struct err e = ERR_INIT;
	struct agent *a = dial(o), *b;

	assert_int_equal(sessions(a, 1), 1);
	const pid_t second = other(o, first);
	memset(g.uuid, 0xab, sizeof(g.uuid));
	if (agent_generation(a, &g, MS, NULL, &e) < 0)
		fail_msg("%s", e.msg);
	b = dial(o);
	assert_int_equal(agent_info(b, &info, MS, &e), 0);
	assert_int_equal(info.generation, 7);
	assert_memory_equal(info.uuid, g.uuid, sizeof(g.uuid));
	assert_int_equal(server(b), second);
	agent_close(a);
}

static void it_knows_that_the_guest_was_frozen_since(void **state)
{
	struct one *o = *state;
	char *argv[] = {"true", NULL};
	const struct agent_exec x = {.argv = argv};
	struct agent_output out;
	struct err e = ERR_INIT;

	spare(o);
	guest_lock(&o->x->g);
	o->x->g.shared->frozen = true;
	guest_unlock(&o->x->g);
	struct agent *a = dial(o);
	assert_int_equal(agent_exec_capture(a, &x, NULL, 0, 100, MS, &out, &e), -EAGAIN);
	agent_close(a);
}

/* A program in the guest reaches the listener by vsock's loopback, and is no reason to end. */
static void it_outlives_a_stranger(void **state)
{
	struct one *o = *state;
	const pid_t first = spare(o);
	struct err e = ERR_INIT;
	char c;

	*peer_cid = VMADDR_CID_LOCAL;
	for (int i = 0; i < 3; i++) {
		cleanup_fd int fd = unix_connect(o->path, MS, &e);

		assert_true(fd >= 0);
		assert_int_equal(recv(fd, &c, 1, 0), 0);
	}
	*peer_cid = VMADDR_CID_HOST;
	struct agent *a = dial(o);
	assert_int_equal(sessions(a, 1), 1);
	assert_int_equal(server(a), first);
}

/* The last place is for whoever comes; when they have gone there is one again. */
static void it_is_there_again_after_as_many_as_there_may_be(void **state)
{
	struct one *o = *state;
	struct agent *a[INIT_SESSIONS_MAX];
	struct agent_frame f = {0};
	pid_t p[INIT_SESSIONS_MAX];
	struct err e = ERR_INIT;

	spare(o);
	for (unsigned i = 0; i < INIT_SESSIONS_MAX; i++)
		a[i] = dial(o);
	await(o, INIT_SESSIONS_MAX, p);
	/* Time for another, for which there is no room. */
	poll(NULL, 0, 300);
	int fd = unix_connect(o->path, MS, &e);
	assert_true(fd >= 0);
	assert_int_equal(agent_frame_read(fd, &f, MS, &e), 0);
	assert_int_equal(f.type, AGENT_ERROR);
	assert_int_equal(agent_get_error(&f, &e), -EBUSY);
	agent_frame_free(&f);
	close(fd);
	assert_int_equal(sessions(a[0], INIT_SESSIONS_MAX), INIT_SESSIONS_MAX);
	for (unsigned i = 0; i < INIT_SESSIONS_MAX; i++)
		agent_close(a[i]);
	const pid_t again = next_spare(o, p, INIT_SESSIONS_MAX);
	a[0] = dial(o);
	assert_int_equal(sessions(a[0], 1), 1);
	assert_int_equal(server(a[0]), again);
}

#define T(f) cmocka_unit_test_setup_teardown(f, start, finish)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(one_is_there_before_the_connection),
		T(the_next_one_is_made_when_it_is_in_nobodys_way),
		T(those_that_come_before_the_next_is_there_are_served),
		T(its_death_is_healed),
		T(one_that_dies_of_its_connection_is_counted_no_more),
		T(it_knows_what_the_guest_has_become_since),
		T(it_knows_that_the_guest_was_frozen_since),
		T(it_outlives_a_stranger),
		T(it_is_there_again_after_as_many_as_there_may_be),
	};

	peer_cid = mmap(NULL, sizeof(*peer_cid), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			-1, 0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
