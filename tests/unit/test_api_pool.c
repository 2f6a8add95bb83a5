/* libsmvm's pools against a pool of the test's own: claims and their ends, hostile answers; and
 * what a process that is started may do. */
#include "runner/api/reply.h"
#include "runner/api/smvm.h"
#include "smfs/base/clock.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/peer_lines.h"

#define CLAIMED "CLAIMED claim=7 vm=0123456789ab dir=\"/tmp/a b\" pid=1 waited_us=5\n"

static char dir[] = "/tmp/test_api_pool.XXXXXX";

/* Its end of the socket, and of the connection. */
struct fake {
	char path[64];
	int listen_fd, fd;
	struct smvm_pool *pool;
	struct smvm_vm *vm;
	struct smvm_error err;
	pthread_t thread;
	const char *answer;
	size_t len; /* of the answer; 0: a string */
	bool hang_up;
};

static void begin(struct fake *f)
{
	static unsigned number;
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	memset(f, 0, sizeof(*f));
	f->fd = -1;
	snprintf(f->path, sizeof(f->path), "%s/%u.sock", dir, number++);
	strcpy(a.sun_path, f->path);
	f->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(f->listen_fd >= 0);
	assert_int_equal(bind(f->listen_fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(f->listen_fd, 8), 0);
	assert_int_equal(smvm_pool_open(f->path, &f->pool, &f->err), 0);
}

static void end(struct fake *f)
{
	smvm_vm_free(f->vm);
	smvm_pool_free(f->pool);
	close(f->listen_fd);
	if (f->fd >= 0)
		close(f->fd);
}

static void take_connection(struct fake *f)
{
	struct pollfd p = {.fd = f->listen_fd, .events = POLLIN};

	assert_int_equal(poll(&p, 1, MS), 1);
	if (f->fd >= 0)
		close(f->fd);
	f->fd = accept4(f->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	assert_true(f->fd >= 0);
}

static void say(struct fake *f, const char *text)
{
	peer_say(f->fd, text);
}

static void hears(struct fake *f, const char *want)
{
	assert_string_equal(peer_hear(f->fd), want);
}

static bool ended(struct fake *f)
{
	struct pollfd p = {.fd = f->fd, .events = POLLIN};
	char c;

	return poll(&p, 1, MS) == 1 && read(f->fd, &c, 1) == 0;
}

/* One request, one answer: as much of it as is taken. */
static void *answer_one(void *arg)
{
	struct fake *f = arg;
	char c = 0;

	if (f->fd < 0)
		take_connection(f);
	while (c != '\n' && read(f->fd, &c, 1) == 1)
		;
	const char *p = f->answer;
	for (size_t left = f->len ? f->len : strlen(p); left > 0;) {
		ssize_t n = send(f->fd, p, left, MSG_NOSIGNAL);

		if (n <= 0)
			break;
		p += n;
		left -= (size_t)n;
	}
	if (f->hang_up) {
		close(f->fd);
		f->fd = -1;
	}
	return NULL;
}

/* What the pool says once it has heard the request that `call` makes; the value is the call's. */
#define ANSWERED(f, text, call)                                                         \
	({                                                                              \
		(f)->answer = text;                                                     \
		assert_int_equal(pthread_create(&(f)->thread, NULL, answer_one, f), 0); \
		int answered_r = call;                                                  \
		pthread_join((f)->thread, NULL);                                        \
		answered_r;                                                             \
	})

static void claims(struct fake *f)
{
	assert_int_equal(ANSWERED(f, CLAIMED, smvm_pool_claim(f->pool, 1000, &f->vm, &f->err)), 0);
}

static int run(struct fake *f)
{
	const struct smvm_exec x = {.size = sizeof(x), .argv = (const char *[]){"x", NULL}};

	return smvm_vm_exec(f->vm, &x, NULL, &f->err);
}

static void test_claim(void **state)
{
	struct fake f;

	begin(&f);
	claims(&f);
	assert_string_equal(smvm_vm_id(f.vm), "0123456789ab");
	assert_string_equal(smvm_vm_directory(f.vm), "/tmp/a b");
	assert_int_equal(smvm_vm_restore(f.vm, "s", NULL, &f.err), -ENOTSUP);
	assert_int_equal(smvm_vm_join(f.vm, 0, NULL, &f.err), -ENOTSUP);
	/* The handle is the claim. */
	smvm_vm_free(f.vm);
	f.vm = NULL;
	assert_true(ended(&f));
	end(&f);

	begin(&f);
	claims(&f);
	smvm_vm_drop(f.vm);
	assert_true(ended(&f));
	assert_int_equal(run(&f), -EPIPE);
	assert_string_equal(f.err.message, "command closed");
	assert_int_equal(smvm_vm_stop(f.vm, &f.err), -EPIPE);
	end(&f);
}

static void test_request(void **state)
{
	struct fake f;

	begin(&f);
	assert_int_equal(smvm_pool_claim_begin(f.pool, 2500, &f.vm, &f.err), 0);
	take_connection(&f);
	hears(&f, "CLAIM deadline_ms=2500");
	smvm_vm_free(f.vm);
	assert_int_equal(smvm_pool_claim_begin(f.pool, 0, &f.vm, &f.err), 0);
	take_connection(&f);
	hears(&f, "CLAIM deadline_ms=1");
	end(&f);
}

/* A connection is used again after a release, and not after anything else. */
static void test_release(void **state)
{
	struct fake f;

	begin(&f);
	claims(&f);
	assert_int_equal(
		ANSWERED(&f, "RELEASED claim=7\n", smvm_pool_release(f.pool, f.vm, &f.err)), 0);
	claims(&f); /* on the same */
	f.vm = (smvm_vm_free(f.vm), NULL);
	close(f.fd);
	f.fd = -1;
	claims(&f); /* on another */
	assert_int_equal(ANSWERED(&f, "ERR_RELEASE code=ENOENT there is no such claim\n",
				  smvm_pool_release(f.pool, f.vm, &f.err)),
			 -ENOENT);
	f.vm = NULL;
	close(f.fd);
	f.fd = -1;
	claims(&f);
	/* One that has said something since it was released is not trusted with the next claim. */
	assert_int_equal(
		ANSWERED(&f, "RELEASED claim=7\n", smvm_pool_release(f.pool, f.vm, &f.err)), 0);
	say(&f, CLAIMED);
	f.vm = NULL;
	assert_int_equal(smvm_pool_claim_begin(f.pool, 0, &f.vm, &f.err), 0);
	close(f.fd);
	f.fd = -1;
	take_connection(&f);
	hears(&f, "CLAIM deadline_ms=1");
	end(&f);
}

static void test_begin(void **state)
{
	struct smvm_event e = {.size = sizeof(e)};
	struct fake f;

	begin(&f);
	assert_int_equal(smvm_pool_claim_begin(f.pool, 100, &f.vm, &f.err), 0);
	struct pollfd p = {.fd = smvm_vm_fd(f.vm), .events = POLLIN};
	take_connection(&f);
	assert_int_equal(poll(&p, 1, 0), 0);
	assert_int_equal(run(&f), -EINPROGRESS);
	say(&f, "CLAIMED claim=7 vm=01234");
	assert_int_equal(poll(&p, 1, MS), 1);
	assert_int_equal(smvm_vm_next(f.vm, 0, &e, &f.err), 0);
	assert_int_equal(e.kind, SMVM_EVENT_NONE);
	say(&f, "56789ab dir=/d\nSOMETHING new=1\nLOST claim=8 vm=x code=EIO another's\n");
	assert_int_equal(smvm_vm_next(f.vm, MS, &e, &f.err), 0);
	assert_int_equal(e.kind, SMVM_EVENT_CLAIMED);
	assert_string_equal(smvm_vm_id(f.vm), "0123456789ab");
	assert_int_equal(smvm_vm_next(f.vm, 0, &e, &f.err), 0);
	assert_int_equal(e.kind, SMVM_EVENT_NONE);
	say(&f, "LOST claim=7 vm=0123456789ab code=ECHILD its process has ended\n");
	assert_int_equal(run(&f), -EPIPE);
	assert_int_equal(smvm_vm_next(f.vm, MS, &e, &f.err), 0);
	assert_int_equal(e.kind, SMVM_EVENT_ENDED);
	assert_int_equal(e.error.code, ECHILD);
	assert_string_equal(e.error.message,
			    "machine 0123456789ab was lost: its process has ended");
	close(f.fd);
	f.fd = -1;
	assert_int_equal(smvm_vm_next(f.vm, MS, &e, &f.err), 0);
	assert_int_equal(e.kind, SMVM_EVENT_CLOSED);
	assert_int_equal(smvm_pool_release(f.pool, f.vm, &f.err), -EPIPE);
	f.vm = NULL;
	end(&f);
}

static void test_refused(void **state)
{
	struct smvm_event e = {.size = sizeof(e)};
	struct fake f;

	begin(&f);
	assert_int_equal(ANSWERED(&f, "ERR_CLAIM id=x code=ENOMEM code=EIO too little\n",
				  smvm_pool_claim(f.pool, 100, &f.vm, &f.err)),
			 -ENOMEM);
	assert_non_null(strstr(f.err.message, ": code=EIO too little"));
	assert_null(f.vm);
	close(f.fd);
	f.fd = -1;
	assert_int_equal(smvm_pool_claim_begin(f.pool, 100, &f.vm, &f.err), 0);
	take_connection(&f);
	say(&f, "ERR_CLAIM code=ETIMEDOUT no machine within 100 ms\n");
	assert_int_equal(smvm_vm_next(f.vm, MS, &e, &f.err), 0);
	assert_int_equal(e.kind, SMVM_EVENT_CLAIM_FAILED);
	assert_int_equal(e.error.code, ETIMEDOUT);
	assert_int_equal(run(&f), -EPIPE);
	end(&f);
}

/* What no pool says is an error, and the claim is over. */
static void test_hostile(void **state)
{
	static char line[1 << 20];
	static const struct {
		const char *says;
		int code;
	} bad[] = {
		{"CLAIMED \n", EPROTO},
		{"CLAIMED claim=1 vm=0123456789ab\n", EPROTO},
		{"CLAIMED claim=1 dir=/d\n", EPROTO},
		{"CLAIMED vm=0123456789ab dir=/d\n", EPROTO},
		{"CLAIMED claim=0 vm=0123456789ab dir=/d\n", EPROTO},
		{"CLAIMED claim=-1 vm=0123456789ab dir=/d\n", EPROTO},
		{"CLAIMED claim=99999999999999999999 vm=0123456789ab dir=/d\n", EPROTO},
		{"CLAIMED claim=1 vm=0123456789abcdef dir=/d\n", EPROTO},
		{"CLAIMED claim=1 vm=0123456789ab dir=\"/d\n", EPROTO},
		{"ERR_UNKNOWN code=ENOSYS what\n", ENOSYS},
		{"ERR_UNKNOWN \n", EPROTO},
		{"ERR_CLAIM \n", EPROTO},
		{"ERR_CLAIM code=\n", EIO},
		{"ERR_CLAIM code=ENONSENSE x\n", EIO},
		{"CLAIMED claim=1 vm=0123", EPIPE},
		{"", EPIPE},
		{"\n\n\n", EPIPE},
		{"\x01\x02\xff\n", EPIPE},
	};
	struct fake f;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		begin(&f);
		f.hang_up = true;
		assert_int_equal(
			ANSWERED(&f, bad[i].says, smvm_pool_claim(f.pool, 1000, &f.vm, &f.err)),
			-bad[i].code);
		assert_null(f.vm);
		end(&f);
	}
	for (int i = 0; i < 4; i++) {
		memset(line, "x\0x\n"[i], sizeof(line));
		if (i == 2) {
			int n = snprintf(line, sizeof(line), "CLAIMED claim=1 vm=0 dir=/");
			line[n] = 'x';
		}
		begin(&f);
		f.len = sizeof(line);
		f.hang_up = true;
		const int r = ANSWERED(&f, line, smvm_pool_claim(f.pool, 10000, &f.vm, &f.err));
		assert_int_equal(r, i == 3 ? -EPIPE : -EPROTO);
		end(&f);
	}
}

/* One that always has something to say, none of it an answer. */
static void *babble(void *arg)
{
	static const char text[] = "PROGRESS a=1\nPROGRESS b=2\nPROGRESS c=3\n";
	struct fake *f = arg;

	take_connection(f);
	while (send(f->fd, text, strlen(text), MSG_NOSIGNAL) > 0)
		;
	return NULL;
}

static void test_babble(void **state)
{
	struct smvm_event e = {.size = sizeof(e)};
	struct fake f;

	begin(&f);
	assert_int_equal(pthread_create(&f.thread, NULL, babble, &f), 0);
	assert_int_equal(smvm_pool_claim_begin(f.pool, 100, &f.vm, &f.err), 0);
	for (int i = 0; i < 20; i++) {
		assert_int_equal(smvm_vm_next(f.vm, 0, &e, &f.err), 0);
		assert_int_equal(e.kind, SMVM_EVENT_NONE);
	}
	assert_int_equal(run(&f), -EINPROGRESS);
	smvm_vm_drop(f.vm);
	pthread_join(f.thread, NULL);
	end(&f);
}

/* It answers nothing at all: what was given, and a margin. And one that takes no connections. */
static void *claim_of_the_silent(void *arg)
{
	struct fake *f = arg;
	const uint64_t began = monotonic_us();
	int r = smvm_pool_claim(f->pool, 200, &f->vm, &f->err);

	return (void *)(uintptr_t)(r == -ETIMEDOUT && monotonic_us() - began < 20000000);
}

static void test_silent(void **state)
{
	struct smvm_pool *more[64];
	struct fake f, deaf;
	unsigned n = 0;
	void *silent_ok;

	begin(&f);
	assert_int_equal(pthread_create(&f.thread, NULL, claim_of_the_silent, &f), 0);
	begin(&deaf);
	assert_int_equal(listen(deaf.listen_fd, 1), 0);
	const uint64_t began = monotonic_us();
	while (n < ARRAY_SIZE(more) && smvm_pool_open(deaf.path, &more[n], &deaf.err) == 0)
		n++;
	assert_true(n < ARRAY_SIZE(more));
	assert_int_equal(deaf.err.code, ETIMEDOUT);
	assert_true(monotonic_us() - began < 20000000);
	while (n)
		smvm_pool_free(more[--n]);
	pthread_join(f.thread, &silent_ok);
	assert_non_null(silent_ok);
	end(&f);
	end(&deaf);
}

static void test_status(void **state)
{
	static char big[300000];
	static const char *const bad[] = {
		"STATUS {\"min\": 1\n", "STATUS nothing\n", "STATUS []\nx",
		"CLAIMED \n",		"STATUS\n",	    "\n"};
	struct smvm_pool_status s = {.size = sizeof(s)};
	struct fake f;

	begin(&f);
	close(accept(f.listen_fd, NULL, NULL)); /* what smvm_pool_open() has left */
	f.hang_up = true;
	assert_int_equal(
		ANSWERED(&f,
			 "STATUS {\"min\": 1, \"max\": 4, \"warm\": 2, \"claimed\": 99999999999, "
			 "\"coming\": -5, \"waiting\": \"three\", \"claims\": 12, "
			 "\"last_failure\": \"why\"}\n",
			 smvm_pool_status(f.pool, &s, &f.err)),
		0);
	assert_int_equal(s.min, 1);
	assert_int_equal(s.max, 4);
	assert_int_equal(s.ready, 2);
	assert_int_equal(s.claimed, UINT32_MAX);
	assert_int_equal(s.coming, 0);
	assert_int_equal(s.waiting, 0);
	assert_int_equal(s.claims, 12);
	assert_string_equal(s.last_failure, "why");
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		int r = ANSWERED(&f, bad[i], smvm_pool_status(f.pool, &s, &f.err));

		/* An empty list has none of the numbers, which is no error of its own. */
		assert_int_equal(r, i == 2 ? 0 : -EPROTO);
	}
	memset(big, 'x', sizeof(big));
	f.len = sizeof(big);
	assert_int_equal(ANSWERED(&f, big, smvm_pool_status(f.pool, &s, &f.err)), -EPROTO);
	memset(big, 0, sizeof(big));
	big[100] = '\n';
	assert_int_equal(ANSWERED(&f, big, smvm_pool_status(f.pool, &s, &f.err)), -EPROTO);
	f.len = 0;
	s.size = 8;
	assert_int_equal(smvm_pool_status(f.pool, &s, &f.err), -EINVAL);
	/* Of an earlier header: what that did not have is not written. */
	s.size = offsetof(struct smvm_pool_status, claims);
	s.claims = 77;
	assert_int_equal(ANSWERED(&f, "STATUS {\"min\": 3, \"claims\": 5}\n",
				  smvm_pool_status(f.pool, &s, &f.err)),
			 0);
	assert_int_equal(s.min, 3);
	assert_int_equal(s.claims, 77);
	end(&f);
}

/* ---- processes ---- */

static void runner(const char *script)
{
	char path[64];

	snprintf(path, sizeof(path), "%s/runner", dir);
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	fprintf(f, "#!/bin/sh\n%s\n", script);
	assert_int_equal(fclose(f), 0);
	assert_int_equal(chmod(path, 0755), 0);
	setenv("SMVM_RUNNER", path, 1);
}

static unsigned descriptors(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static void test_start(void **state)
{
	struct smvm_pool_options o = {.size = sizeof(o), .snapshot = "s", .max = 2};
	struct smvm_error err;
	struct smvm_pool *pool;
	struct smvm_vm *vm;

	assert_int_equal(smvm_pool_new(&o, &pool, &err), 0);
	assert_int_equal(smvm_pool_claim(pool, 0, &vm, &err), -ENOENT);
	assert_int_equal(smvm_pool_stop(pool, &err), -ENOTSUP);
	setenv("SMVM_RUNNER", "/nonexistent/runner", 1);
	const unsigned before = descriptors();
	for (int i = 0; i < 3; i++)
		assert_int_equal(smvm_pool_start(pool, &err), -ENOENT);
	assert_int_equal(descriptors(), before);
	runner("echo 'smvm-runner: no such thing' >&2; exit 3");
	assert_int_equal(smvm_pool_start(pool, &err), -ENOENT);
	assert_non_null(strstr(err.message, ": no such thing"));
	runner("exit 0");
	assert_int_equal(smvm_pool_start(pool, &err), -EPIPE);
	runner("head -c 1000000 /dev/zero; exit 4");
	assert_int_equal(smvm_pool_start(pool, &err), -EPIPE);
	/* It comes up, is there once, and ends as its standard input does. */
	runner("echo pool; cat >/dev/null; echo more");
	assert_int_equal(smvm_pool_start(pool, &err), 0);
	assert_int_equal(smvm_pool_start(pool, &err), -EALREADY);
	assert_non_null(strstr(err.message, "has a worker already"));
	assert_int_equal(smvm_pool_stop(pool, &err), 0);
	assert_int_equal(smvm_pool_start(pool, &err), 0);
	smvm_pool_free(pool);
	/* One that dies can be started again. */
	assert_int_equal(smvm_pool_new(&o, &pool, &err), 0);
	runner("echo pool");
	const uint64_t until = monotonic_us() + MS * 1000;
	int r;
	assert_int_equal(smvm_pool_start(pool, &err), 0);
	while ((r = smvm_pool_start(pool, &err)) == -EALREADY && monotonic_us() < until)
		usleep(1000);
	assert_int_equal(r, 0);
	smvm_pool_free(pool);
}

static void test_publish(void **state)
{
	const char *ports[18] = {"80", "[::1]:0:/run/x", NULL};
	struct smvm_pool_options o = {
		.size = sizeof(o), .snapshot = "s", .max = 2, .publish = ports};
	char script[256], said[512], file[64];
	struct smvm_error err;
	struct smvm_pool *pool;

	snprintf(file, sizeof(file), "%s/args", dir);
	snprintf(script, sizeof(script), "echo \"$*\" >%s; echo pool; cat >/dev/null", file);
	runner(script);
	assert_int_equal(smvm_pool_new(&o, &pool, &err), 0);
	ports[0] = "not looked at any more";
	assert_int_equal(smvm_pool_start(pool, &err), 0);
	FILE *f = fopen(file, "r");
	assert_non_null(fgets(said, sizeof(said), f));
	fclose(f);
	unlink(file);
	assert_non_null(strstr(said, " --publish=127.0.0.1:0:80 --publish=[::1]:0:/run/x\n"));
	smvm_pool_free(pool);
	assert_int_equal(smvm_pool_new(&o, &pool, &err), -EINVAL);
	assert_non_null(strstr(err.message, "is no forward"));
	ports[0] = "8080:80";
	assert_int_equal(smvm_pool_new(&o, &pool, &err), -EINVAL);
	assert_non_null(strstr(err.message, "only one machine can have port 8080"));
	o.max = 1;
	assert_int_equal(smvm_pool_new(&o, &pool, &err), 0);
	smvm_pool_free(pool);
	for (size_t i = 0; i < 17; i++)
		ports[i] = "80";
	assert_int_equal(smvm_pool_new(&o, &pool, &err), -EINVAL);
	/* A program of the header before: it has no such member, and what is there is another's. */
	o.size = offsetof(struct smvm_pool_options, publish);
	assert_int_equal(smvm_pool_new(&o, &pool, &err), 0);
	smvm_pool_free(pool);
}

/* A worker that floods its standard error is not waited for by it, and its end is what is told. */
static void test_chatty(void **state)
{
	struct smvm_error err;
	struct smvm_vm *vm;
	char script[256], flag[64];

	snprintf(flag, sizeof(flag), "%s/went-on", dir);
	snprintf(script, sizeof(script),
		 "i=0; while [ $i -lt 400 ]; do printf '%%01000d\\n' 0 >&2; i=$((i+1)); done\n"
		 ">%s; sleep 0.3; echo 'smvm-runner: the last word' >&2; exit 5",
		 flag);
	runner(script);
	assert_int_equal(smvm_vm_start(NULL, NULL, &vm, &err), -ENOTSUP);
	assert_string_equal(err.message, "the last word");
	assert_int_equal(access(flag, F_OK), 0);
	unlink(flag);
}

/* Quoted it would be longer than a request to a worker may be. */
static void test_no_text(void **state)
{
	struct smvm_pool_options o = {.size = sizeof(o), .snapshot = "s", .max = 2};
	struct smvm_error err;
	struct smvm_pool *pool;
	char text[4096];

	memset(text, 1, sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	o.warm_up = text;
	assert_int_equal(smvm_pool_new(&o, &pool, &err), -EINVAL);
	assert_non_null(strstr(err.message, "pool's warm_up: 16382 bytes once"));
	o.warm_up = NULL;
	o.snapshot = text;
	assert_int_equal(smvm_pool_new(&o, &pool, &err), -EINVAL);
	assert_non_null(strstr(err.message, "pool's snapshot: 16382 bytes once"));
	memset(text, 'a', sizeof(text) - 1);
	o.warm_up = text;
	assert_int_equal(smvm_pool_new(&o, &pool, &err), 0);
	smvm_pool_free(pool);
}

static void test_misuse(void **state)
{
	struct smvm_pool_options o = {0};
	struct smvm_error err;
	struct smvm_pool *pool;
	struct fake f;
	int pair[2];

	assert_int_equal(smvm_pool_open("no-pool-is-called-so", &pool, &err), -ENOENT);
	assert_int_equal(smvm_pool_open("", &pool, &err), -EINVAL);
	assert_int_equal(smvm_pool_open("a b", &pool, &err), -EINVAL);
	assert_int_equal(smvm_pool_open("/tmp/none/x.sock", &pool, &err), -ENOENT);
	assert_int_equal(smvm_pool_new(&o, &pool, &err), -EINVAL);
	o.size = sizeof(o) + 1;
	assert_int_equal(smvm_pool_new(&o, &pool, &err), -EINVAL);
	o.size = sizeof(o);
	assert_int_equal(smvm_pool_new(&o, &pool, &err), -EINVAL);
	o.snapshot = "s";
	o.min = 5;
	assert_int_equal(smvm_pool_new(&o, &pool, &err), -EINVAL);
	o.max = 100000;
	assert_int_equal(smvm_pool_new(&o, &pool, &err), -EINVAL);
	o.max = 8;
	o.name = "../x";
	assert_int_equal(smvm_pool_new(&o, &pool, &err), -EINVAL);
	smvm_pool_free(NULL);

	begin(&f);
	assert_int_equal(smvm_pool_start(f.pool, &f.err), -EALREADY);
	assert_int_equal(smvm_pool_stop(f.pool, &f.err), -ENOTSUP);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	assert_int_equal(write_full(pair[0], "READY\nHELLO 1 vm=0 dir=/d\n", 26), 0);
	assert_int_equal(smvm_vm_attach(pair[1], MS, &f.vm, &f.err), 0);
	assert_int_equal(smvm_pool_release(f.pool, f.vm, &f.err), -EINVAL);
	end(&f);
	close(pair[0]);
}

static int make_dir(void **state)
{
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	char command[64];

	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_claim),	cmocka_unit_test(test_request),
		cmocka_unit_test(test_release), cmocka_unit_test(test_begin),
		cmocka_unit_test(test_refused), cmocka_unit_test(test_hostile),
		cmocka_unit_test(test_babble),	cmocka_unit_test(test_silent),
		cmocka_unit_test(test_status),	cmocka_unit_test(test_start),
		cmocka_unit_test(test_publish), cmocka_unit_test(test_chatty),
		cmocka_unit_test(test_no_text), cmocka_unit_test(test_misuse),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
