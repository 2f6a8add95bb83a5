/*
 * What a worker or a pool can send to libsmvm: the input is bytes on the socket, after a restore, a
 * snapshot or a claim was begun. Every event is whole, they end in CLOSED, and a closed handle says
 * so.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "runner/api/smvm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char hello[] = "READY\nHELLO 1 vm=0123456789ab dir=/run/smvm/0123456789ab\n";

static void check_event(const struct smvm_event *e)
{
	if (e->kind < SMVM_EVENT_RESTORED || e->kind > SMVM_EVENT_CLAIM_FAILED)
		abort();
	if (!memchr(e->error.message, 0, sizeof(e->error.message)) ||
	    !memchr(e->restored.how, 0, sizeof(e->restored.how)))
		abort();
	if ((e->kind == SMVM_EVENT_RESTORED || e->kind == SMVM_EVENT_SNAPSHOTTED) &&
	    (e->error.code || e->restored.host_port > 65535))
		abort();
	if (e->kind > SMVM_EVENT_SNAPSHOTTED && e->kind != SMVM_EVENT_CLAIMED && !e->error.code)
		abort();
}

/* The worker's end of a connection, something begun on it. */
static int begin_request(unsigned how, struct smvm_vm **vm)
{
	struct smvm_error err;
	int pair[2], r;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0 ||
	    send(pair[0], hello, sizeof(hello) - 1, 0) < 0 ||
	    smvm_vm_attach(pair[1], 1000, vm, &err) < 0)
		abort();
	r = how & 1 ? smvm_vm_restore_begin(*vm, "s", &err)
		    : smvm_vm_snapshot_begin(*vm, "s", how & 2 ? "b" : NULL, &err);
	if (r < 0)
		abort();
	return pair[0];
}

/* The pool's. */
static int begin_claim(struct smvm_vm **vm)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	struct smvm_pool *pool;
	struct smvm_error err;
	int fd, listener = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "/tmp/fuzz_api.%d", (int)getpid());
	unlink(a.sun_path);
	if (listener < 0 || bind(listener, (struct sockaddr *)&a, sizeof(a)) < 0 ||
	    listen(listener, 1) < 0 || smvm_pool_open(a.sun_path, &pool, &err) < 0 ||
	    smvm_pool_claim_begin(pool, 1, vm, &err) < 0)
		abort();
	fd = accept(listener, NULL, NULL);
	if (fd < 0)
		abort();
	close(listener);
	unlink(a.sun_path);
	smvm_pool_free(pool);
	return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct smvm_error err;
	struct smvm_vm *vm;

	/* Less than a socket holds, so that nobody waits. */
	if (!size || size > 100000)
		return 0;
	const bool claims = data[0] & 4;
	const int fd = claims ? begin_claim(&vm) : begin_request(data[0], &vm);
	if (size > 1 && send(fd, data + 1, size - 1, MSG_DONTWAIT) < 0)
		abort();
	shutdown(fd, SHUT_WR);
	for (;;) {
		struct smvm_event e = {.size = sizeof(e)};

		if (smvm_vm_next(vm, 1000, &e, &err) < 0) {
			if (!claims && err.code != EPROTO)
				abort();
			continue;
		}
		check_event(&e);
		if (e.kind == SMVM_EVENT_CLOSED)
			break;
	}
	if ((claims ? smvm_vm_stop(vm, &err) : smvm_vm_restore(vm, "s", NULL, &err)) != -EPIPE)
		abort();
	smvm_vm_free(vm);
	close(fd);
	return 0;
}
