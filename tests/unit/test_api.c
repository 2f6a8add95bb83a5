/* libsmvm against a worker of the test's own: what is in flight, time-outs, ends, hostile answers.
 */
#include "runner/api/reply.h"
#include "runner/api/smvm.h"
#include "runner/proto/agent.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/peer_lines.h"

#define PHASES                                                                                \
	"reset_vsock_us=1 remap_cow_us=2 load_meta_us=3 restore_snapshot_us=4 ram_copy_us=5 " \
	"gic_restore_us=6 vcpu_restore_us=7 vtimer_offset_us=8 mmio_restore_us=9 "            \
	"listener_restore_us=10"
#define HELLO_LINE \
	"HELLO 1 program=t/1 vm=0123456789ab dir=\"/tmp/a b\" line_max=16384 deadline_ms=60000\n"

/* The worker's end: of the test's own thread, and of another where the library waits. */
struct fake {
	int fd;
	struct smvm_vm *vm;
	struct smvm_error err;
	pthread_t thread;
	const char *answer;
};

static void say(struct fake *f, const char *line)
{
	peer_say(f->fd, line);
}

static const char *hear(struct fake *f)
{
	return peer_hear(f->fd);
}

static void attach(struct fake *f, bool extended)
{
	int pair[2];

	memset(f, 0, sizeof(*f));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	f->fd = pair[0];
	say(f, extended ? "READY\n" HELLO_LINE : "READY\n");
	assert_int_equal(smvm_vm_attach(pair[1], MS, &f->vm, &f->err), 0);
	assert_string_equal(hear(f), "HELLO 1");
}

static void detach(struct fake *f)
{
	smvm_vm_free(f->vm);
	if (f->fd >= 0)
		close(f->fd);
}

static void *answer_one(void *arg)
{
	struct fake *f = arg;

	hear(f);
	say(f, f->answer);
	return NULL;
}

/* What the worker says once it has heard the request that `call` makes; the value is the call's. */
#define ANSWERED(f, text, call)                                                         \
	({                                                                              \
		(f)->answer = text;                                                     \
		assert_int_equal(pthread_create(&(f)->thread, NULL, answer_one, f), 0); \
		int answered_r = call;                                                  \
		pthread_join((f)->thread, NULL);                                        \
		answered_r;                                                             \
	})

static void restores(struct fake *f, const char *answer)
{
	struct smvm_restored t;

	assert_int_equal(ANSWERED(f, answer, smvm_vm_restore(f->vm, "s", &t, &f->err)), 0);
	assert_int_equal(t.us, 3);
}

static void test_restored(void **state)
{
	struct smvm_restored t;
	struct fake f;

	attach(&f, true);
	assert_string_equal(smvm_vm_id(f.vm), "0123456789ab");
	assert_string_equal(smvm_vm_directory(f.vm), "/tmp/a b");
	assert_int_equal(smvm_vm_restore_begin(f.vm, "a \"b\"", &f.err), 0);
	assert_string_equal(hear(&f), "RESTORE \"a \\\"b\\\"\" id=1 deadline_ms=60000");
	say(&f, "DONE 1234 host_port=8080 " PHASES
		" generation=7 how=warm why=\"a=b c\" hooks=0 hooks_failed=0 id=1\n");
	struct smvm_event e = {.size = sizeof(e)};
	assert_int_equal(smvm_vm_next(f.vm, MS, &e, &f.err), 0);
	assert_int_equal(e.kind, SMVM_EVENT_RESTORED);
	t = e.restored;
	assert_int_equal(t.us, 1234);
	assert_int_equal(t.host_port, 8080);
	assert_int_equal(t.reset_vsock_us, 1);
	assert_int_equal(t.remap_cow_us, 2);
	assert_int_equal(t.load_meta_us, 3);
	assert_int_equal(t.restore_snapshot_us, 4);
	assert_int_equal(t.ram_copy_us, 5);
	assert_int_equal(t.gic_restore_us, 6);
	assert_int_equal(t.vcpu_restore_us, 7);
	assert_int_equal(t.vtimer_offset_us, 8);
	assert_int_equal(t.mmio_restore_us, 9);
	assert_int_equal(t.listener_restore_us, 10);
	assert_int_equal(t.generation, 7);
	assert_string_equal(t.how, "warm");
	assert_int_equal(smvm_vm_next(f.vm, 0, &e, &f.err), 0);
	assert_int_equal(e.kind, SMVM_EVENT_NONE);
	detach(&f);
}

/* The original protocol: no ids, no deadlines; and a failure is the end of the connection. */
static void test_seed(void **state)
{
	struct smvm_restored t;
	struct fake f;

	attach(&f, false);
	assert_string_equal(smvm_vm_id(f.vm), "");
	assert_int_equal(smvm_vm_restore(f.vm, "a b", &t, &f.err), -EINVAL);
	assert_int_equal(smvm_vm_restore_begin(f.vm, "/a/b", &f.err), 0);
	assert_string_equal(hear(&f), "RESTORE /a/b");
	say(&f, "DONE 9 " PHASES "\n");
	struct smvm_event e = {.size = sizeof(e)};
	assert_int_equal(smvm_vm_next(f.vm, MS, &e, &f.err), 0);
	assert_int_equal(e.restored.us, 9);
	assert_int_equal(e.restored.host_port, 0);
	assert_int_equal(e.restored.listener_restore_us, 10);
	assert_int_equal(smvm_vm_exec(f.vm,
				      &(struct smvm_exec){.size = sizeof(struct smvm_exec),
							  .argv = (const char *[]){"x", NULL}},
				      NULL, &f.err),
			 -ENOTSUP);
	assert_int_equal(smvm_vm_snapshot_begin(f.vm, "n", "m", &f.err), 0);
	assert_string_equal(hear(&f), "SNAPSHOT_ASYNC n base=m");
	say(&f, "ERR_SNAPSHOT disk full: no space\n");
	assert_int_equal(smvm_vm_next(f.vm, MS, &e, &f.err), 0);
	assert_int_equal(e.kind, SMVM_EVENT_SNAPSHOT_FAILED);
	assert_string_equal(e.error.message, "disk full: no space");
	detach(&f);
}

static void test_dropped(void **state)
{
	struct smvm_restored t;
	struct fake f;

	attach(&f, true);
	smvm_vm_drop(f.vm);
	assert_int_equal(smvm_vm_restore(f.vm, "s", &t, &f.err), -EPIPE);
	assert_int_equal(f.err.code, EPIPE);
	assert_string_equal(f.err.message, "command closed");
	assert_int_equal(smvm_vm_stop(f.vm, &f.err), -EPIPE);
	assert_string_equal(f.err.message, "command closed");
	assert_int_equal(smvm_vm_snapshot(f.vm, "s", NULL, NULL, &f.err), -EPIPE);
	assert_int_equal(smvm_vm_fd(f.vm), -1);
	detach(&f);
}

/* It dies: at rest, and in the middle of a restore. */
static void test_died(void **state)
{
	struct smvm_event e = {.size = sizeof(e)};
	struct fake f;

	attach(&f, true);
	close(f.fd);
	f.fd = -1;
	assert_int_equal(smvm_vm_restore(f.vm, "s", NULL, &f.err), -EPIPE);
	assert_string_equal(f.err.message, "command closed");
	assert_int_equal(smvm_vm_next(f.vm, 0, &e, &f.err), 0);
	assert_int_equal(e.kind, SMVM_EVENT_CLOSED);
	detach(&f);

	attach(&f, true);
	assert_int_equal(smvm_vm_restore_begin(f.vm, "s", &f.err), 0);
	say(&f, "DONE 5 " PHASES " id=1\n");
	close(f.fd);
	f.fd = -1;
	assert_int_equal(smvm_vm_next(f.vm, MS, &e, &f.err), 0);
	assert_int_equal(e.kind, SMVM_EVENT_RESTORED);
	assert_int_equal(smvm_vm_next(f.vm, MS, &e, &f.err), 0);
	assert_int_equal(e.kind, SMVM_EVENT_CLOSED);
	assert_int_equal(smvm_vm_stop(f.vm, &f.err), -EPIPE);
	detach(&f);
}

static void test_timeout(void **state)
{
	struct smvm_event e = {.size = sizeof(e)};
	struct fake f;

	for (int how = 0; how < 3; how++) {
		attach(&f, how < 2);
		assert_int_equal(smvm_vm_restore_timeout(f.vm, "s", 30, NULL, &f.err), -ETIMEDOUT);
		assert_string_equal(hear(&f),
				    how < 2 ? "RESTORE s id=1 deadline_ms=30" : "RESTORE s");
		assert_int_equal(smvm_vm_restore(f.vm, "s", NULL, &f.err), -EBUSY);
		assert_string_equal(f.err.message, "restore in flight");
		assert_int_equal(smvm_vm_snapshot(f.vm, "t", NULL, NULL, &f.err), -EBUSY);
		assert_string_equal(f.err.message, "restore in flight");
		/* How it ended comes late: by itself, or after the worker's own time-out. */
		if (how == 0)
			say(&f, "ERR_RESTORE id=1 code=ETIMEDOUT no answer\nSETTLED id=1 ok\n");
		else if (how == 1)
			say(&f, "ERR_RESTORE id=1 code=ETIMEDOUT no answer\nSETTLED id=1 "
				"code=ENOENT gone\n");
		else
			say(&f, "DONE 77 " PHASES "\n");
		assert_int_equal(smvm_vm_next(f.vm, MS, &e, &f.err), 0);
		assert_int_equal(e.kind,
				 how == 1 ? SMVM_EVENT_RESTORE_FAILED : SMVM_EVENT_RESTORED);
		if (how == 1)
			assert_string_equal(e.error.message, "gone");
		/* The next is welcome. */
		restores(&f, how < 2 ? "DONE 3 " PHASES " id=2\n" : "DONE 3 " PHASES "\n");
		detach(&f);
	}
}

/* The worker's time-out comes before ours: the same. */
static void test_its_timeout(void **state)
{
	struct fake f;

	attach(&f, true);
	assert_int_equal(ANSWERED(&f, "ERR_RESTORE id=1 code=ETIMEDOUT no answer within 5 s\n",
				  smvm_vm_restore_timeout(f.vm, "s", 5000, NULL, &f.err)),
			 -ETIMEDOUT);
	assert_string_equal(f.err.message, "no answer within 5 s");
	assert_int_equal(smvm_vm_restore(f.vm, "s", NULL, &f.err), -EBUSY);
	assert_string_equal(f.err.message, "restore in flight");
	say(&f, "SETTLED id=1 ok\n");
	/* What has settled meanwhile is found out by asking for the next. */
	restores(&f, "DONE 3 " PHASES " id=2\n");
	detach(&f);
}

static void test_failures(void **state)
{
	struct smvm_snapshotted s;
	struct fake f;

	attach(&f, true);
	assert_int_equal(
		ANSWERED(
			&f,
			"ERR_RESTORE id=1 code=ENOENT machine=kept snapshot s: no such directory\n",
			smvm_vm_restore(f.vm, "s", NULL, &f.err)),
		-ENOENT);
	assert_string_equal(f.err.message,
			    "snapshot s: no such directory; the machine is as before");
	assert_int_equal(
		ANSWERED(&f, "ERR_SNAPSHOT id=2 code=ENOSPC store: id=9 disk full, 100% of it\n",
			 smvm_vm_snapshot(f.vm, "n", NULL, &s, &f.err)),
		-ENOSPC);
	assert_string_equal(f.err.message, "store: id=9 disk full, 100% of it");
	assert_int_equal(ANSWERED(&f, "ERR_SNAPSHOT id=3 code=ESOMETHING new\n",
				  smvm_vm_snapshot(f.vm, "n", NULL, &s, &f.err)),
			 -EIO);
	assert_int_equal(
		ANSWERED(
			&f,
			"DONE_SNAPSHOT bytes_written=4096 capture_us=5 save_us=6 pause_us=7 diff=1 id=4\n",
			smvm_vm_snapshot(f.vm, "n", NULL, &s, &f.err)),
		0);
	assert_int_equal(s.bytes_written, 4096);
	assert_int_equal(s.capture_us, 5);
	assert_int_equal(s.save_us, 6);
	detach(&f);
}

static void test_async(void **state)
{
	struct smvm_event e = {.size = sizeof(e)};
	struct fake f;

	attach(&f, true);
	struct pollfd p = {.fd = smvm_vm_fd(f.vm), .events = POLLIN};
	assert_int_equal(smvm_vm_snapshot_begin(f.vm, "n", NULL, &f.err), 0);
	assert_int_equal(poll(&p, 1, 0), 0);
	assert_int_equal(smvm_vm_restore_begin(f.vm, "s", &f.err), -EBUSY);
	assert_string_equal(f.err.message, "snapshot in flight");
	say(&f,
	    "ACCEPTED pause_us=1 copied_bytes=0 id=1\nPROGRESS elapsed_ms=1 copied_bytes=2 id=1\n");
	assert_int_equal(poll(&p, 1, MS), 1);
	assert_int_equal(smvm_vm_next(f.vm, 0, &e, &f.err), 0);
	assert_int_equal(e.kind, SMVM_EVENT_NONE);
	say(&f, "DONE_SNAPSHOT_ASYNC bytes_written=1 capture_us=2 save_us=3 id=1\n"
		"ENDED how=failed why=\"KVM said \\\"no\\\"\"\nSOMETHING new=1\n");
	assert_int_equal(smvm_vm_next(f.vm, MS, &e, &f.err), 0);
	assert_int_equal(e.kind, SMVM_EVENT_SNAPSHOTTED);
	assert_int_equal(e.snapshotted.save_us, 3);
	assert_int_equal(smvm_vm_next(f.vm, MS, &e, &f.err), 0);
	assert_int_equal(e.kind, SMVM_EVENT_ENDED);
	assert_string_equal(e.error.message, "the machine has ended: failed: KVM said \"no\"");
	detach(&f);
}

/* The worker's time-out: in flight until it is settled, and written when that is told. */
static void test_snapshot_timeout(void **state)
{
	struct smvm_event e = {.size = sizeof(e)};
	struct fake f;

	attach(&f, true);
	assert_int_equal(ANSWERED(&f, "ERR_SNAPSHOT id=1 code=ETIMEDOUT no answer\n",
				  smvm_vm_snapshot(f.vm, "n", NULL, NULL, &f.err)),
			 -ETIMEDOUT);
	assert_int_equal(smvm_vm_snapshot(f.vm, "n", NULL, NULL, &f.err), -EBUSY);
	say(&f, "SETTLED id=1 code=ETIMEDOUT the guest cannot be stopped\n");
	assert_int_equal(smvm_vm_next(f.vm, MS, &e, &f.err), 0);
	assert_int_equal(e.kind, SMVM_EVENT_SNAPSHOT_FAILED);
	assert_string_equal(e.error.message, "the guest cannot be stopped");
	assert_int_equal(smvm_vm_snapshot_begin(f.vm, "n", NULL, &f.err), 0);
	say(&f, "ERR_SNAPSHOT id=2 code=ETIMEDOUT no answer\nSETTLED id=2 ok\n");
	assert_int_equal(smvm_vm_next(f.vm, MS, &e, &f.err), 0);
	assert_int_equal(e.kind, SMVM_EVENT_SNAPSHOT_FAILED);
	assert_int_equal(smvm_vm_next(f.vm, 100, &e, &f.err), 0);
	assert_int_equal(e.kind, SMVM_EVENT_NONE);
	assert_int_equal(smvm_vm_restore_begin(f.vm, "s", &f.err), -EBUSY);
	say(&f, "DONE_SNAPSHOT_ASYNC bytes_written=1 capture_us=2 save_us=3 id=2\n");
	assert_int_equal(smvm_vm_next(f.vm, MS, &e, &f.err), 0);
	assert_int_equal(e.kind, SMVM_EVENT_SNAPSHOTTED);
	assert_int_equal(e.snapshotted.save_us, 3);
	detach(&f);
}

static void test_quit(void **state)
{
	struct fake f;

	attach(&f, true);
	say(&f, "BYE\n");
	assert_int_equal(smvm_vm_stop(f.vm, &f.err), 0);
	assert_string_equal(hear(&f), "QUIT");
	assert_int_equal(smvm_vm_stop(f.vm, &f.err), -EPIPE);
	detach(&f);
	attach(&f, false);
	shutdown(f.fd, SHUT_WR);
	assert_int_equal(smvm_vm_stop(f.vm, &f.err), 0);
	assert_int_equal(smvm_vm_join(f.vm, 0, NULL, &f.err), -ENOTSUP);
	detach(&f);
}

/* What no worker says ends the connection, and nothing else. */
static void test_hostile(void **state)
{
	static char line[1 << 20];
	const char *const bad[] = {"DONE\n", "DONE -1 id=1\n", "DONE 99999999999999999999 id=1\n",
				   "ERR_UNKNOWN code=ENOSYS what\n"};
	struct smvm_event e = {.size = sizeof(e)};
	struct fake f;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		attach(&f, true);
		assert_int_equal(ANSWERED(&f, bad[i], smvm_vm_restore(f.vm, "s", NULL, &f.err)),
				 -EPROTO);
		assert_int_equal(smvm_vm_restore(f.vm, "s", NULL, &f.err), -EPIPE);
		detach(&f);
	}
	attach(&f, true);
	memset(line, 'x', sizeof(line));
	assert_true(send(f.fd, line, sizeof(line), MSG_DONTWAIT) > REPLY_LINE_MAX + 1);
	assert_int_equal(smvm_vm_restore(f.vm, "s", NULL, &f.err), -EPROTO);
	detach(&f);
	/* Answers to nobody are none. */
	attach(&f, true);
	say(&f, "DONE 1 id=1\nDONE_SNAPSHOT id=1\nSETTLED id=1 ok\nBAKE_READY\n");
	assert_int_equal(smvm_vm_next(f.vm, 0, &e, &f.err), 0);
	assert_int_equal(e.kind, SMVM_EVENT_NONE);
	detach(&f);
}

/* A program that never asks for news has its requests answered all the same. */
static void test_unheard(void **state)
{
	struct smvm_event e = {.size = sizeof(e)};
	char answer[64];
	struct fake f;
	int n = 0;

	attach(&f, true);
	for (int i = 1; i <= 100; i++) {
		snprintf(answer, sizeof(answer), "ENDED how=shutdown\nDONE %d id=%d\n", i, i);
		assert_int_equal(ANSWERED(&f, answer, smvm_vm_restore(f.vm, "s", NULL, &f.err)), 0);
	}
	while (smvm_vm_next(f.vm, 0, &e, &f.err) == 0 && e.kind == SMVM_EVENT_ENDED)
		n++;
	assert_int_equal(e.kind, SMVM_EVENT_NONE);
	assert_in_range(n, 1, 16);
	detach(&f);
}

/* An agent that cannot measure, as seen by one that runs a program: OK, HELLO, refused, and again.
 */
static void *agent(void *arg)
{
	const struct agent_exit ended = {.kind = AGENT_EXIT_CODE, .value = 3, .peak = 4096};
	cleanup_writer struct writer hello = WRITER_INIT, no = WRITER_INIT, end = WRITER_INIT;
	struct agent_frame frame = {0};
	struct agent_exec x;
	char c = 0;
	int fd = accept(*(int *)arg, NULL, NULL);

	while (c != '\n')
		assert_int_equal(read(fd, &c, 1), 1);
	assert_int_equal(write(fd, "OK 1\n", 5), 5);
	agent_put_hello(&hello);
	agent_put_error(&no, ENOTSUP, "no memory controller");
	agent_put_exit(&end, &ended);
	assert_int_equal(agent_frame_read(fd, &frame, MS, NULL), 0);
	assert_int_equal(agent_frame_send(fd, AGENT_HELLO, &hello, MS, NULL), 0);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(agent_frame_read(fd, &frame, MS, NULL), 0);
		assert_int_equal(agent_get_exec(&frame, &x, NULL), 0);
		assert_int_equal(x.measure, !i);
		agent_exec_free(&x);
		if (!i)
			assert_int_equal(agent_frame_send(fd, AGENT_ERROR, &no, MS, NULL), 0);
	}
	assert_int_equal(agent_frame_write(fd, AGENT_STARTED, "\1\0\0\0", 4, MS, NULL), 0);
	assert_int_equal(agent_frame_write(fd, AGENT_STDOUT, "out", 3, MS, NULL), 0);
	agent_frame_send(fd, AGENT_EXIT, &end, MS, NULL);
	agent_frame_free(&frame);
	/* Until the other side has closed: it may be writing. */
	while (read(fd, &c, 1) > 0)
		;
	close(fd);
	return NULL;
}

static void test_exec(void **state)
{
	struct smvm_exec x = {
		.size = sizeof(x), .argv = (const char *[]){"x", NULL}, .in = -1, .err = -1};
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	char dir[] = "/tmp/test_api.XXXXXX", hello[128];
	struct smvm_exit end;
	struct fake f;
	int pair[2], out[2], fd;

	assert_non_null(mkdtemp(dir));
	snprintf(a.sun_path, sizeof(a.sun_path), "%s/vsock.sock", dir);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 1), 0);
	memset(&f, 0, sizeof(f));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	f.fd = pair[0];
	snprintf(hello, sizeof(hello), "READY\nHELLO 1 vm=0123456789ab dir=%s\n", dir);
	say(&f, hello);
	assert_int_equal(smvm_vm_attach(pair[1], MS, &f.vm, &f.err), 0);
	/* To a reader, and to none: that is an error, and no signal. */
	for (int i = 0; i < 2; i++) {
		assert_int_equal(pipe(out), 0);
		x.out = out[1];
		if (i)
			close(out[0]);
		assert_int_equal(pthread_create(&f.thread, NULL, agent, &fd), 0);
		assert_int_equal(smvm_vm_exec(f.vm, &x, &end, &f.err), i ? -EPIPE : 0);
		pthread_join(f.thread, NULL);
		close(out[1]);
		if (!i)
			close(out[0]);
	}
	assert_int_equal(end.code, 3);
	assert_int_equal(end.peak_bytes, 4096);
	detach(&f);
	close(fd);
	unlink(a.sun_path);
	rmdir(dir);
}

static void *chatter(void *arg)
{
	static const char talk[] = "PROGRESS elapsed_ms=1 copied_bytes=1\n";
	struct fake *f = arg;

	while (send(f->fd, talk, sizeof(talk) - 1, MSG_NOSIGNAL) > 0)
		;
	return NULL;
}

/* One that never stops talking holds nobody up. */
static void test_chatter(void **state)
{
	struct smvm_event e = {.size = sizeof(e)};
	struct fake f;

	attach(&f, true);
	assert_int_equal(pthread_create(&f.thread, NULL, chatter, &f), 0);
	for (int i = 0; i < 100; i++) {
		assert_int_equal(smvm_vm_next(f.vm, i ? 0 : 100, &e, &f.err), 0);
		assert_int_equal(e.kind, SMVM_EVENT_NONE);
	}
	assert_int_equal(smvm_vm_restore_begin(f.vm, "s", &f.err), 0);
	assert_int_equal(smvm_vm_restore_timeout(f.vm, "s", 1, NULL, &f.err), -EBUSY);
	smvm_vm_drop(f.vm);
	pthread_join(f.thread, NULL);
	detach(&f);
}

static void test_misuse(void **state)
{
	struct smvm_vm_options o = {0};
	struct smvm_event e = {0};
	struct smvm_error err;
	struct smvm_vm *vm;
	struct fake f;
	int pair[2];

	assert_int_equal(smvm_vm_start(NULL, &o, &vm, &err), -EINVAL);
	assert_int_equal(smvm_vm_open("nobody-is-called-so", &vm, &err), -ENOENT);
	setenv("SMVM_RUNNER", "/nonexistent/runner", 1);
	assert_int_equal(smvm_vm_start(NULL, NULL, &vm, &err), -ENOENT);
	setenv("SMVM_RUNNER", "/bin/false", 1);
	assert_true(smvm_vm_start(NULL, NULL, &vm, &err) < 0);
	unsetenv("SMVM_RUNNER");
	/* It says nothing: the time given is all that is waited. */
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	assert_int_equal(smvm_vm_attach(pair[1], 30, &vm, &err), -ETIMEDOUT);
	close(pair[0]);
	attach(&f, true);
	assert_int_equal(smvm_vm_next(f.vm, 0, &e, &err), -EINVAL);
	assert_int_equal(smvm_vm_restore(f.vm, "", NULL, NULL), -EINVAL);
	assert_int_equal(smvm_vm_fork(f.vm, 0, NULL, &vm, NULL, &err), -EINVAL);
	detach(&f);
	smvm_vm_free(NULL);
	smvm_image_close(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_restored),	 cmocka_unit_test(test_seed),
		cmocka_unit_test(test_dropped),		 cmocka_unit_test(test_died),
		cmocka_unit_test(test_timeout),		 cmocka_unit_test(test_its_timeout),
		cmocka_unit_test(test_failures),	 cmocka_unit_test(test_async),
		cmocka_unit_test(test_snapshot_timeout), cmocka_unit_test(test_quit),
		cmocka_unit_test(test_hostile),		 cmocka_unit_test(test_exec),
		cmocka_unit_test(test_unheard),		 cmocka_unit_test(test_chatter),
		cmocka_unit_test(test_misuse),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
