/*
 * agent_session.h - sessions of smvm-init on the host, for its tests: the same code that serves
 * vsock in a guest, over a socket pair, against the real client. Identity operations only record
 * what they were asked.
 */
#ifndef TESTS_UNIT_AGENT_SESSION_H
#define TESTS_UNIT_AGENT_SESSION_H

#include "runner/agent/session.h"
#include "runner/guest/agent_client.h"
#include "runner/proto/mailbox.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"

#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define MS 60000

/* Shared with the sessions, which are processes of their own. */
struct record {
	char log[256];
	uint8_t seed[AGENT_ENTROPY_MAX];
	uint64_t wall_ns;
	char hostname[256], machine_id[64];
	bool fail_clock;
};

struct fixture {
	char root[64];
	char cgroup[128];
	struct record *rec;
	struct bootconf conf;
	struct guest g;
	uint8_t mailbox[MAILBOX_SIZE];
	pid_t session;
	int first; /* an earlier connection, which a later session must not hold open */
};

static struct record *record; /* the operations get no context but the guest */

static inline int fake_entropy(struct guest *g, const void *seed, size_t len, struct err *err)
{
	memcpy(record->seed, seed, len);
	strcat(record->log, "entropy ");
	return 0;
}

static inline int fake_clock(struct guest *g, uint64_t wall_ns, struct err *err)
{
	record->wall_ns = wall_ns;
	strcat(record->log, "clock ");
	return record->fail_clock ? err_set(err, EPERM, "set the clock: not today") : 0;
}

static inline int fake_hostname(struct guest *g, const char *name, struct err *err)
{
	strcpy(record->hostname, name);
	strcat(record->log, "hostname ");
	return 0;
}

static inline int fake_machine_id(struct guest *g, const char *id, struct err *err)
{
	strcpy(record->machine_id, id);
	strcat(record->log, "machine-id ");
	return 0;
}

static const struct identity_ops fake = {fake_entropy, fake_clock, fake_hostname, fake_machine_id};

static inline int setup(void **state)
{
	static char *base_env[] = {"BASE=from-boot", "PATH=/usr/bin:/bin", NULL};
	struct fixture *x = calloc(1, sizeof(*x));
	struct err e = ERR_INIT;

	signal(SIGPIPE, SIG_IGN);
	strcpy(x->root, "/tmp/agent-test.XXXXXX");
	assert_non_null(mkdtemp(x->root));
	x->rec = mmap(NULL, sizeof(*x->rec), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	record = x->rec;
	x->conf.env = base_env;
	x->conf.cwd = "/";
	x->g = (struct guest){.conf = &x->conf,
			      .identity = &fake,
			      .root = x->root,
			      .power_wr = -1,
			      .ended_rd = -1};
	assert_int_equal(shared_new(&x->g.shared, &e), 0);
	*state = x;
	return 0;
}

static inline int teardown(void **state)
{
	struct fixture *x = *state;
	char cmd[128];

	if (x->cgroup[0])
		rmdir(x->cgroup);
	snprintf(cmd, sizeof(cmd), "rm -rf %s", x->root);
	assert_int_equal(system(cmd), 0);
	munmap(x->rec, sizeof(*x->rec));
	munmap(x->g.shared, sizeof(*x->g.shared));
	free(x);
	return 0;
}

/* A session in a child, as process 1 forks it; the peer's end. */
static inline int begin_raw(struct fixture *x)
{
	int s[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
	x->session = fork();
	assert_true(x->session >= 0);
	if (x->session == 0) {
		close(s[0]);
		if (x->first > 0)
			close(x->first);
		/* What a session logs is the guest's console's. */
		dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
		session_serve(&x->g, s[1]);
		_exit(0);
	}
	close(s[1]);
	return s[0];
}

static inline struct agent *begin(struct fixture *x)
{
	struct agent *a = NULL;
	struct err e = ERR_INIT;

	if (agent_attach(begin_raw(x), MS, &a, &e) < 0)
		fail_msg("%s", e.msg);
	return a;
}

/* The session ends by itself once its peer is gone: or the test fails after a while. */
static inline void ended(struct fixture *x)
{
	for (int i = 0; i < 6000; i++) {
		int status;

		if (waitpid(x->session, &status, WNOHANG) == x->session) {
			assert_true(WIFEXITED(status));
			assert_int_equal(WEXITSTATUS(status), 0);
			return;
		}
		poll(NULL, 0, 10);
	}
	kill(x->session, SIGKILL);
	waitpid(x->session, NULL, 0);
	fail_msg("the session did not end");
}

static inline void end(struct fixture *x, struct agent *a)
{
	agent_close(a);
	ended(x);
}

#endif
