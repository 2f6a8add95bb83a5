/*
 * What a worker can send to libsmvm: the input is bytes on the socket, after a restore or a
 * snapshot was begun. Every event is whole, they end in CLOSED, and a closed handle says so.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runner/api/smvm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char hello[] = "READY\nHELLO 1 vm=0123456789ab dir=/run/smvm/0123456789ab\n";

static void check_event(const struct smvm_event *e)
{
	if (e->kind < SMVM_EVENT_RESTORED || e->kind > SMVM_EVENT_CLOSED)
		abort();
	if (!memchr(e->error.message, 0, sizeof(e->error.message)) ||
	    !memchr(e->restored.how, 0, sizeof(e->restored.how)))
		abort();
	if ((e->kind == SMVM_EVENT_RESTORED || e->kind == SMVM_EVENT_SNAPSHOTTED) &&
	    (e->error.code || e->restored.host_port > 65535))
		abort();
	if (e->kind > SMVM_EVENT_SNAPSHOTTED && !e->error.code)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct smvm_error err;
	struct smvm_vm *vm;
	int pair[2], r;

	/* Less than a socket holds, so that nobody waits. */
	if (!size || size > 100000 || socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
		return 0;
	if (send(pair[0], hello, sizeof(hello) - 1, 0) < 0 ||
	    smvm_vm_attach(pair[1], 1000, &vm, &err) < 0)
		abort();
	r = data[0] & 1 ? smvm_vm_restore_begin(vm, "s", &err)
			: smvm_vm_snapshot_begin(vm, "s", data[0] & 2 ? "b" : NULL, &err);
	if (r < 0)
		abort();
	if (size > 1 && send(pair[0], data + 1, size - 1, MSG_DONTWAIT) < 0)
		abort();
	shutdown(pair[0], SHUT_WR);
	for (;;) {
		struct smvm_event e = {.size = sizeof(e)};

		if (smvm_vm_next(vm, 1000, &e, &err) < 0) {
			if (err.code != EPROTO)
				abort();
			continue;
		}
		check_event(&e);
		if (e.kind == SMVM_EVENT_CLOSED)
			break;
	}
	if (smvm_vm_restore(vm, "s", NULL, &err) != -EPIPE)
		abort();
	smvm_vm_free(vm);
	close(pair[0]);
	return 0;
}
