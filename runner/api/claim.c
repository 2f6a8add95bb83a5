/* claim.c - smvm_pool_claim() and _release(): a handle that is a connection to a pool. */
#include "runner/api/handle.h"
#include "runner/api/pool.h"
#include "runner/pool/ask.h"
#include "runner/worker/line.h"
#include "smfs/base/clock.h"
#include "smfs/base/num.h"

#include <inttypes.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

/* What a pool may take for an answer that needs no machine. */
#define ANSWER_MS 5000

/* ---- what the pool says ---- */

static void tell(struct smvm_vm *vm, enum smvm_event_kind kind, const struct err *why)
{
	struct reply r = {.err = why ? *why : ERR_INIT};

	link_push(vm, kind, 0, &r);
}

static int take_claimed(struct smvm_vm *vm, const char *words, struct err *err)
{
	struct pool_claimed c;
	int r = pool_claimed_parse(words, &c, err);

	if (r < 0)
		return r;
	if (strlen(c.vm) > VM_ID_LEN)
		return err_set(err, EPROTO, "the pool's machine %s: not an id", c.vm);
	memcpy(vm->id, c.vm, strlen(c.vm) + 1);
	snprintf(vm->dir, sizeof(vm->dir), "%s", c.dir);
	snprintf(vm->forwards, sizeof(vm->forwards), "%s", c.forwards);
	vm->claiming = false;
	vm->claim = c.claim;
	tell(vm, SMVM_EVENT_CLAIMED, NULL);
	return 0;
}

static void take_lost(struct smvm_vm *vm, const char *line)
{
	char ours[40];
	struct err why = ERR_INIT;

	snprintf(ours, sizeof(ours), "LOST claim=%" PRIu64 " ", vm->claim);
	if (!vm->claim || strncmp(line, ours, strlen(ours)) != 0)
		return;
	vm->claim = 0;
	pool_refusal(line, &why);
	err_wrap(&why, 0, "machine %s was lost", vm->id);
	tell(vm, SMVM_EVENT_ENDED, &why);
}

static bool begins(const char *line, const char *word)
{
	return !strncmp(line, word, strlen(word));
}

int claim_act(struct smvm_vm *vm, const char *line, struct err *err)
{
	struct err why = ERR_INIT;

	if (vm->claiming && begins(line, "CLAIMED "))
		return take_claimed(vm, line + strlen("CLAIMED "), err);
	if (begins(line, "ERR_RELEASE ") || begins(line, "ERR_UNKNOWN "))
		return pool_refusal(line, err);
	if (vm->claiming && begins(line, "ERR_CLAIM ")) {
		vm->claiming = false;
		pool_refusal(line, &why);
		tell(vm, SMVM_EVENT_CLAIM_FAILED, &why);
	} else if (begins(line, "LOST ")) {
		take_lost(vm, line);
	} else if (begins(line, "RELEASED ")) {
		vm->released = true;
		vm->claim = 0;
	}
	return 0; /* other lines are of a later version */
}

int claim_check(struct smvm_vm *vm, struct err *err)
{
	int r = vm->fd < 0 ? link_closed(err) : link_catch_up(vm, err);

	if (r < 0)
		return r;
	if (vm->claiming)
		return err_set(err, EINPROGRESS, "the pool has not answered the claim yet");
	return vm->claim ? 0 : link_closed(err);
}

/* ---- claims ---- */

static int begin(struct smvm_pool *pool, unsigned timeout_ms, struct smvm_vm **out, struct err *err)
{
	char line[64];
	struct smvm_vm *vm = vm_handle();

	if (!vm)
		return err_set(err, ENOMEM, "claim: out of memory");
	vm->is_claim = vm->claiming = true;
	int r = vm->fd =
		pool_connection(pool, MIN(timeout_ms, UINT_MAX - ANSWER_MS) + ANSWER_MS, err);
	if (r >= 0) {
		snprintf(line, sizeof(line), "CLAIM deadline_ms=%u",
			 MIN(MAX(timeout_ms, 1u), (unsigned)LINE_DEADLINE_MAX));
		r = link_say(vm, line, err);
	}
	if (r < 0) {
		smvm_vm_free(vm);
		return err_wrap(err, r, "pool %s", smvm_pool_name(pool));
	}
	*out = vm;
	return 0;
}

int smvm_pool_claim_begin(struct smvm_pool *pool, unsigned timeout_ms, struct smvm_vm **out,
			  struct smvm_error *err)
{
	struct err e = ERR_INIT;

	return api_error(err, &e, begin(pool, timeout_ms, out, &e));
}

static int await_claimed(struct smvm_vm *vm, uint64_t until, struct err *err)
{
	struct smvm_event e;
	int r = 0;

	while (!link_take(vm, 0, &e)) {
		uint64_t now = monotonic_us();

		if (r == -EPIPE)
			return err_set(
				err, EPIPE,
				"it has closed the connection: it has ended, or has too many "
				"clients");
		if (r < 0)
			return r;
		if (now >= until)
			return err_set(err, ETIMEDOUT, "it does not answer");
		r = link_step(vm, (int)MIN((until - now) / 1000 + 1, (uint64_t)INT_MAX), err);
	}
	return e.kind == SMVM_EVENT_CLAIMED ? 0 : err_set(err, e.error.code, "%s", e.error.message);
}

int smvm_pool_claim(struct smvm_pool *pool, unsigned timeout_ms, struct smvm_vm **out,
		    struct smvm_error *err)
{
	/* The pool's own time-out has the reason, so it is waited for. */
	const uint64_t until = monotonic_us() + (timeout_ms + (uint64_t)ANSWER_MS) * 1000;
	struct smvm_vm *vm = NULL;
	struct err e = ERR_INIT;
	int r = begin(pool, timeout_ms, &vm, &e);

	if (r == 0) {
		r = await_claimed(vm, until, &e);
		if (r < 0) {
			err_wrap(&e, r, "pool %s", smvm_pool_name(pool));
			smvm_vm_free(vm);
		} else {
			*out = vm;
		}
	}
	return api_error(err, &e, r);
}

static int release(struct smvm_vm *vm, struct err *err)
{
	char line[64];
	int r = claim_check(vm, err);

	if (r < 0)
		return r;
	snprintf(line, sizeof(line), "RELEASE claim=%" PRIu64, vm->claim);
	r = link_say(vm, line, err);
	return r < 0 ? r : link_await(vm, &vm->released, monotonic_us() + ANSWER_MS * 1000ull, err);
}

int smvm_pool_release(struct smvm_pool *pool, struct smvm_vm *vm, struct smvm_error *err)
{
	struct err e = ERR_INIT;
	int r;

	if (!vm->is_claim) {
		r = err_set(&e, EINVAL, "release: %s is no machine of a pool", vm->id);
		return api_error(err, &e, r);
	}
	r = release(vm, &e);
	if (r == 0 && !vm->len && !vm->nnews) {
		pool_keep_connection(pool, vm->fd);
		vm->fd = -1;
	}
	smvm_vm_free(vm);
	return api_error(err, &e, r);
}
