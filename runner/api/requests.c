/* requests.c - smvm_vm_restore(), _snapshot(), _fork(), and the events they end in. */
#include "runner/api/handle.h"
#include "runner/control/control.h"
#include "runner/worker/line.h"
#include "smfs/base/clock.h"
#include "smfs/base/num.h"

#include <stdio.h>
#include <string.h>

#define ANSWER_MS 60000
/* A worker's own time-out is told before ours. */
#define MARGIN_MS 5000

#define WORD_MAX (4 * LINE_PATH_MAX + 3)

/* One at a time, whether somebody still waits for it or not. */
static int check_idle(const struct smvm_vm *vm, struct err *err)
{
	if (!vm->is_worker)
		return err_set(err, ENOTSUP,
			       "machine %s is not driven by this handle: only its own worker can "
			       "be restored",
			       vm->id);
	if (vm->fd < 0)
		return link_closed(err);
	if (vm->restoring)
		return err_set(err, EBUSY, "restore in flight");
	if (vm->snapshotting)
		return err_set(err, EBUSY, "snapshot in flight");
	return 0;
}

/* What has come in meanwhile may have ended what was in flight. */
static int catch_up(struct smvm_vm *vm, struct err *err)
{
	return vm->is_worker && vm->fd >= 0 ? link_catch_up(vm, err) : 0;
}

static int send_request(struct smvm_vm *vm, const char *verb, const char *path, const char *base,
			unsigned deadline_ms, unsigned serial, char id[REPLY_ID_MAX + 1],
			struct err *err)
{
	char word[WORD_MAX], base_word[WORD_MAX], line[LINE_LEN_MAX + 1];
	size_t n;
	int r = link_word(vm, path, word, sizeof(word), err);

	if (r == 0 && base)
		r = link_word(vm, base, base_word, sizeof(base_word), err);
	if (r < 0)
		return r;
	n = (size_t)snprintf(line, sizeof(line), "%s %s%s%s", verb, word, base ? " base=" : "",
			     base ? base_word : "");
	if (vm->extended && n < sizeof(line)) {
		snprintf(id, REPLY_ID_MAX + 1, "%u", serial);
		n += (size_t)snprintf(line + n, sizeof(line) - n, " id=%s deadline_ms=%u", id,
				      deadline_ms);
	}
	if (n >= sizeof(line))
		return err_set(err, EMSGSIZE, "%s %s: too long for a request", verb, path);
	return link_say(vm, line, err);
}

static int begin_restore(struct smvm_vm *vm, const char *snapshot, unsigned timeout_ms,
			 struct err *err)
{
	int r = catch_up(vm, err);

	if (r == 0)
		r = check_idle(vm, err);
	if (r == 0)
		r = send_request(vm, "RESTORE", snapshot, NULL,
				 MIN(MAX(timeout_ms, 1u), (unsigned)LINE_DEADLINE_MAX),
				 vm->serial + 1, vm->restore_id, err);
	if (r == 0) {
		vm->restoring = true;
		vm->restore_serial = ++vm->serial;
		vm->restore_expired = false;
	}
	return r;
}

/*
 * How request `serial` ended. A time-out of ours is told as the worker's own would be, and the
 * request is in flight as before.
 */
static int await_event(struct smvm_vm *vm, unsigned serial, unsigned timeout_ms,
		       struct smvm_event *e, struct err *err)
{
	const uint64_t until = monotonic_us() + timeout_ms * 1000ull;
	int r = 0;

	while (!link_take(vm, serial, e)) {
		uint64_t now = monotonic_us();

		/* Closed; and what it had said before that was not the answer. */
		if (r < 0)
			return r;
		if (now >= until)
			return err_set(err, ETIMEDOUT, "no answer within %u ms; it goes on",
				       timeout_ms);
		r = link_step(vm, (int)MIN((until - now) / 1000 + 1, (uint64_t)INT_MAX), err);
	}
	return e->error.code ? err_set(err, e->error.code, "%s", e->error.message) : 0;
}

static int restore(struct smvm_vm *vm, const char *snapshot, unsigned deadline_ms, unsigned wait_ms,
		   struct smvm_restored *out, struct err *err)
{
	struct smvm_event e;
	int r = begin_restore(vm, snapshot, deadline_ms, err);

	if (r < 0)
		return r;
	r = await_event(vm, vm->restore_serial, wait_ms, &e, err);
	if (r == -ETIMEDOUT)
		vm->restore_expired = true;
	if (r == 0 && out)
		*out = e.restored;
	return r;
}

int smvm_vm_restore(struct smvm_vm *vm, const char *snapshot, struct smvm_restored *out,
		    struct smvm_error *err)
{
	struct err e = ERR_INIT;

	return api_error(err, &e, restore(vm, snapshot, ANSWER_MS, ANSWER_MS + MARGIN_MS, out, &e));
}

int smvm_vm_restore_timeout(struct smvm_vm *vm, const char *snapshot, unsigned timeout_ms,
			    struct smvm_restored *out, struct smvm_error *err)
{
	struct err e = ERR_INIT;

	return api_error(err, &e, restore(vm, snapshot, timeout_ms, timeout_ms, out, &e));
}

int smvm_vm_restore_begin(struct smvm_vm *vm, const char *snapshot, struct smvm_error *err)
{
	struct err e = ERR_INIT;

	return api_error(err, &e, begin_restore(vm, snapshot, ANSWER_MS, &e));
}

/* ---- snapshots ---- */

static int begin_snapshot(struct smvm_vm *vm, const char *verb, const char *name, const char *base,
			  struct err *err)
{
	int r = catch_up(vm, err);

	if (r == 0)
		r = check_idle(vm, err);
	if (r == 0)
		r = send_request(vm, verb, name, base, ANSWER_MS, vm->serial + 1, vm->snapshot_id,
				 err);
	if (r == 0) {
		vm->snapshotting = true;
		vm->snapshot_serial = ++vm->serial;
		vm->snapshot_expired = false;
		vm->snapshot_async = !strcmp(verb, "SNAPSHOT_ASYNC");
	}
	return r;
}

static uint64_t number(const json_t *j, const char *key)
{
	json_int_t v = json_integer_value(json_object_get(j, key));

	return v > 0 ? (uint64_t)v : 0;
}

static int snapshot_other(struct smvm_vm *vm, const char *name, const char *base,
			  struct smvm_snapshotted *out, struct err *err)
{
	char path[RUNDIR_PATH_MAX];
	json_t *reply = NULL;
	int r = vm_file(vm, "control.sock", path, err);

	if (r == 0)
		r = control_call(
			path,
			json_pack("{s:s, s:s, s:s*}", "op", "snapshot", "name", name, "base", base),
			ANSWER_MS, &reply, NULL, err);
	if (r < 0)
		return r;
	*out = (struct smvm_snapshotted){.bytes_written = number(reply, "data_bytes"),
					 .capture_us = number(reply, "capture_us"),
					 .save_us = number(reply, "save_us")};
	json_decref(reply);
	return 0;
}

int smvm_vm_snapshot(struct smvm_vm *vm, const char *name, const char *base,
		     struct smvm_snapshotted *out, struct smvm_error *err)
{
	struct smvm_snapshotted unused;
	struct err e = ERR_INIT;
	struct smvm_event ev;

	if (!vm->is_worker)
		return api_error(err, &e, snapshot_other(vm, name, base, out ? out : &unused, &e));
	int r = begin_snapshot(vm, "SNAPSHOT", name, base, &e);
	if (r == 0) {
		r = await_event(vm, vm->snapshot_serial, ANSWER_MS + MARGIN_MS, &ev, &e);
		if (r == -ETIMEDOUT)
			vm->snapshot_expired = true;
	}
	if (r == 0 && out)
		*out = ev.snapshotted;
	return api_error(err, &e, r);
}

int smvm_vm_snapshot_begin(struct smvm_vm *vm, const char *name, const char *base,
			   struct smvm_error *err)
{
	struct err e = ERR_INIT;

	return api_error(err, &e, begin_snapshot(vm, "SNAPSHOT_ASYNC", name, base, &e));
}

/* ---- events ---- */

int smvm_vm_fd(const struct smvm_vm *vm)
{
	return vm->fd;
}

/* As much of it as the caller's header has. */
static int give_event(struct smvm_event *to, const struct smvm_event *e, struct err *err)
{
	const size_t size = to->size;
	int r = api_check_size("an event", size, offsetof(struct smvm_event, error), sizeof(*e),
			       err);

	if (r < 0)
		return r;
	memcpy(to, e, size);
	to->size = size;
	return 0;
}

int smvm_vm_next(struct smvm_vm *vm, int timeout_ms, struct smvm_event *event,
		 struct smvm_error *err)
{
	const uint64_t until = monotonic_us() + (uint64_t)MAX(timeout_ms, 0) * 1000;
	struct smvm_event e = {.size = sizeof(e)};
	struct err why = ERR_INIT;
	int r = 0;

	while (!link_take(vm, 0, &e)) {
		uint64_t now = monotonic_us();
		int ms = timeout_ms < 0 ? -1 : now < until ? (int)((until - now) / 1000) + 1 : 0;

		r = link_step(vm, ms, &why);
		if (r < 0 && !vm->nnews) {
			if (r != -EPIPE)
				return api_error(err, &why, r);
			e.kind = SMVM_EVENT_CLOSED;
			api_error(&e.error, &why, r);
			break;
		}
		/* Whatever it says, the time is up. */
		if (!vm->nnews && timeout_ms >= 0 && monotonic_us() >= until)
			break;
	}
	err_clear(&why);
	return api_error(err, &why, give_event(event, &e, &why));
}
