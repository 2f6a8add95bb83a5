/* link.c - a worker's connection: lines out, lines in, what is in flight. */
#include "runner/api/handle.h"
#include "runner/worker/line.h"
#include "smfs/base/clock.h"
#include "smfs/base/num.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SAY_MS 10000
/* A worker of the original runner does not answer HELLO. */
#define HELLO_MS     2000
#define CATCH_UP_MAX 64 /* reads of REPLY_LINE_MAX each */

int api_error(struct smvm_error *out, const struct err *err, int r)
{
	if (out && r < 0) {
		out->code = err->code;
		snprintf(out->message, sizeof(out->message), "%s", err->msg);
	}
	return r;
}

int api_check_size(const char *what, size_t size, size_t least, size_t most, struct err *err)
{
	if (size >= least && size <= most)
		return 0;
	return err_set(err, EINVAL,
		       "%s of %zu bytes: set `size`, and use a library as new as the header", what,
		       size);
}

int link_closed(struct err *err)
{
	return err_set(err, EPIPE, "command closed");
}

static const char *peer(const struct smvm_vm *vm)
{
	return vm->is_claim ? "pool" : "worker";
}

void link_close(struct smvm_vm *vm)
{
	if (vm->fd >= 0)
		close(vm->fd);
	vm->fd = -1;
	vm->restoring = vm->snapshotting = vm->claiming = false;
	vm->claim = 0;
}

int link_say(struct smvm_vm *vm, const char *line, struct err *err)
{
	char text[REPLY_LINE_MAX + 2];
	const uint64_t until = monotonic_us() + SAY_MS * 1000ull;
	size_t n = strlen(line), done = 0;

	if (vm->fd < 0)
		return link_closed(err);
	if (n > LINE_LEN_MAX)
		return err_set(err, EMSGSIZE, "a request of %zu bytes: %d at most", n,
			       LINE_LEN_MAX);
	memcpy(text, line, n + 1);
	text[n++] = '\n';
	while (done < n) {
		ssize_t w = send(vm->fd, text + done, n - done, MSG_NOSIGNAL | MSG_DONTWAIT);
		struct pollfd p = {.fd = vm->fd, .events = POLLOUT};
		uint64_t now = monotonic_us();

		if (w > 0) {
			done += (size_t)w;
		} else if (w < 0 && errno == EAGAIN && now < until) {
			poll(&p, 1, (int)((until - now) / 1000) + 1);
		} else if (w < 0 && errno == EAGAIN) {
			/* Half a line cannot be taken back. */
			link_close(vm);
			return err_set(err, ETIMEDOUT, "the %s does not read its requests",
				       peer(vm));
		} else if (w < 0 && errno != EINTR) {
			/* What it has said before is still to be read: link_step() closes. */
			return link_closed(err);
		}
	}
	return 0;
}

/* A program that only makes requests and never asks for news is owed the latest, not all. */
void link_push(struct smvm_vm *vm, enum smvm_event_kind kind, unsigned serial,
	       const struct reply *r)
{
	struct smvm_event oldest;

	if (vm->nnews == EVENTS_MAX)
		link_take(vm, 0, &oldest);
	struct news *n = &vm->news[vm->nnews++];
	n->serial = serial;
	n->event = (struct smvm_event){.size = sizeof(n->event),
				       .kind = kind,
				       .restored = r->restored,
				       .snapshotted = r->snapshotted};
	api_error(&n->event.error, &r->err, r->err.code ? -r->err.code : 0);
}

/* The answer of a request in flight; one of another, or of none, is not ours. */
static bool is_answer(const struct smvm_vm *vm, bool flying, const char *id, const struct reply *r)
{
	return flying && (!vm->extended || !strcmp(r->id, id));
}

static void restored(struct smvm_vm *vm, const struct reply *r)
{
	const bool late = r->kind == REPLY_SETTLED;

	if (r->kind == REPLY_ERR_RESTORE && r->err.code == ETIMEDOUT && !vm->restore_expired) {
		/* Its own time-out: SETTLED will follow. */
		vm->restore_expired = true;
		link_push(vm, SMVM_EVENT_RESTORE_FAILED, vm->restore_serial, r);
		return;
	}
	if (r->kind == REPLY_ERR_RESTORE && r->err.code == ETIMEDOUT)
		return; /* has been told already */
	vm->restoring = vm->restore_expired = false;
	link_push(vm,
		  r->kind == REPLY_DONE || (late && !r->err.code) ? SMVM_EVENT_RESTORED
								  : SMVM_EVENT_RESTORE_FAILED,
		  vm->restore_serial, r);
}

static void snapshotted(struct smvm_vm *vm, const struct reply *r)
{
	if (r->kind == REPLY_ERR_SNAPSHOT && r->err.code == ETIMEDOUT && vm->extended) {
		if (!vm->snapshot_expired)
			link_push(vm, SMVM_EVENT_SNAPSHOT_FAILED, vm->snapshot_serial, r);
		vm->snapshot_expired = true;
		return;
	}
	/* Accepted late, it is still to be written. */
	if (r->kind == REPLY_SETTLED && !r->err.code && vm->snapshot_async) {
		vm->snapshot_expired = false;
		return;
	}
	vm->snapshotting = vm->snapshot_expired = false;
	link_push(vm, r->err.code ? SMVM_EVENT_SNAPSHOT_FAILED : SMVM_EVENT_SNAPSHOTTED,
		  vm->snapshot_serial, r);
}

static int act(struct smvm_vm *vm, char *line, struct err *err)
{
	struct reply r;
	int ret = reply_parse(line, &r, err);

	if (ret < 0)
		return ret;
	switch (r.kind) {
	case REPLY_READY:
		vm->ready = true;
		return 0;
	case REPLY_HELLO:
		vm->hello = true;
		snprintf(vm->id, sizeof(vm->id), "%.*s", VM_ID_LEN, r.vm);
		snprintf(vm->dir, sizeof(vm->dir), "%s", r.dir);
		snprintf(vm->forwards, sizeof(vm->forwards), "%s", r.forwards);
		return 0;
	case REPLY_BAKED:
		vm->baked = true;
		return 0;
	case REPLY_ERR_BAKE:
		vm->baked = true;
		vm->bake_error = r.err;
		return 0;
	case REPLY_BYE:
		vm->bye = true;
		return 0;
	case REPLY_DONE:
	case REPLY_ERR_RESTORE:
		if (is_answer(vm, vm->restoring, vm->restore_id, &r))
			restored(vm, &r);
		return 0;
	case REPLY_SNAPSHOT:
	case REPLY_SNAPSHOT_ASYNC:
	case REPLY_ERR_SNAPSHOT:
		if (is_answer(vm, vm->snapshotting, vm->snapshot_id, &r))
			snapshotted(vm, &r);
		return 0;
	case REPLY_SETTLED:
		if (is_answer(vm, vm->restoring, vm->restore_id, &r))
			restored(vm, &r);
		else if (is_answer(vm, vm->snapshotting, vm->snapshot_id, &r))
			snapshotted(vm, &r);
		return 0;
	case REPLY_ENDED:
		link_push(vm, SMVM_EVENT_ENDED, 0, &r);
		return 0;
	case REPLY_ERR_UNKNOWN:
		return err_set(err, EPROTO, "the worker did not understand: %s", r.err.msg);
	default:
		return 0;
	}
}

/* Whole lines of the buffer; the rest moves to its beginning. */
static int act_on_lines(struct smvm_vm *vm, struct err *err)
{
	char *at = vm->buf, *end = vm->buf + vm->len, *lf;
	int r = 0;

	while (r == 0 && (lf = memchr(at, '\n', (size_t)(end - at)))) {
		*lf = '\0';
		r = vm->is_claim ? claim_act(vm, at, err) : act(vm, at, err);
		at = lf + 1;
	}
	vm->len = (size_t)(end - at);
	memmove(vm->buf, at, vm->len);
	if (r == 0 && vm->len > REPLY_LINE_MAX)
		r = err_set(err, EPROTO, "the %s's line is longer than %d bytes", peer(vm),
			    REPLY_LINE_MAX);
	return r;
}

int link_step(struct smvm_vm *vm, int timeout_ms, struct err *err)
{
	struct pollfd p[2] = {{.fd = vm->fd, .events = POLLIN},
			      {.fd = vm->child.log_fd, .events = POLLIN}};

	if (vm->fd < 0)
		return link_closed(err);
	int n = poll(p, 2, timeout_ms);
	if (n < 0)
		return errno == EINTR ? 0 : err_errno(err, "wait for the %s", peer(vm));
	if (p[1].revents)
		child_listen(&vm->child);
	if (!p[0].revents)
		return 0;
	ssize_t got = recv(vm->fd, vm->buf + vm->len, REPLY_LINE_MAX + 1 - vm->len, MSG_DONTWAIT);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (got <= 0) {
		link_close(vm);
		return link_closed(err);
	}
	vm->len += (size_t)got;
	int r = act_on_lines(vm, err);
	if (r < 0)
		link_close(vm);
	return r < 0 ? r : 1;
}

int link_catch_up(struct smvm_vm *vm, struct err *err)
{
	int r = 1;

	/* More than a connection holds, but not for ever, of a peer that never stops talking. */
	for (int i = 0; i < CATCH_UP_MAX && r > 0; i++)
		r = link_step(vm, 0, err);
	return MIN(r, 0);
}

int link_await(struct smvm_vm *vm, const bool *flag, uint64_t until_us, struct err *err)
{
	while (!*flag) {
		uint64_t now = monotonic_us();

		if (now >= until_us)
			return err_set(err, ETIMEDOUT, "the %s has not answered in time", peer(vm));
		int ms = until_us == UINT64_MAX
				 ? -1
				 : (int)MIN((until_us - now) / 1000 + 1, (uint64_t)INT_MAX);
		int r = link_step(vm, ms, err);
		if (r < 0 && !*flag)
			return r;
	}
	return 0;
}

int link_greet(struct smvm_vm *vm, int timeout_ms, struct err *err)
{
	const uint64_t now = monotonic_us();
	int r = link_await(vm, &vm->ready,
			   timeout_ms < 0 ? UINT64_MAX : now + (uint64_t)timeout_ms * 1000, err);

	if (r == 0)
		r = link_say(vm, "HELLO 1", err);
	if (r == 0)
		r = link_await(vm, &vm->hello, monotonic_us() + HELLO_MS * 1000ull, err);
	if (r == -ETIMEDOUT && vm->ready && vm->fd >= 0)
		return 0;
	vm->extended = r == 0;
	return r;
}

bool link_take(struct smvm_vm *vm, unsigned serial, struct smvm_event *out)
{
	for (unsigned i = 0; i < vm->nnews; i++) {
		if (serial && vm->news[i].serial != serial)
			continue;
		*out = vm->news[i].event;
		vm->nnews--;
		memmove(&vm->news[i], &vm->news[i + 1], (vm->nnews - i) * sizeof(vm->news[0]));
		return true;
	}
	return false;
}

int link_word(const struct smvm_vm *vm, const char *text, char *out, size_t size, struct err *err)
{
	size_t n = strlen(text);

	if (!n || n >= LINE_PATH_MAX || size < 4 * n + 3)
		return err_set(err, EINVAL, "a name or path of %zu bytes", n);
	if (vm->extended) {
		line_quote(text, out);
		return 0;
	}
	for (const char *p = text; *p; p++)
		if ((unsigned char)*p <= ' ' || *p == 0x7f)
			return err_set(err, EINVAL,
				       "'%s': the original protocol has no word for it", text);
	memcpy(out, text, n + 1);
	return 0;
}
