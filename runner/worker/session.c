#include "runner/worker/session.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "smfs/base/log.h"

#define PROGRESS_US 1000000u
#define LONG_MS	    250000 /* more than a restore's own time-outs come to */
#define QUOTED_MAX  3200   /* of vm_info.forwards, the longest; with the rest no line is too long */

/* ---- lines out ----------------------------------------------------------------------------- */

struct text {
	char p[LINE_LEN_MAX + 1];
	size_t n;
};

static void put(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void put(struct text *t, const char *fmt, ...)
{
	const size_t room = sizeof(t->p) - t->n;
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(t->p + t->n, room, fmt, ap);
	va_end(ap);
	/* Every line is bounded by its parts; one cut short would still be a line. */
	if (n > 0)
		t->n += (size_t)n < room ? (size_t)n : room - 1;
}

/* An error's text: one line, whatever it quotes. */
static void put_plain(struct text *t, const char *msg)
{
	for (; *msg && t->n < sizeof(t->p) - 2; msg++)
		t->p[t->n++] = (unsigned char)*msg < 0x20 || *msg == 0x7f ? ' ' : *msg;
	t->p[t->n] = '\0';
}

static void put_quoted(struct text *t, const char *msg)
{
	char cut[QUOTED_MAX + 1], word[4 * QUOTED_MAX + 3];

	snprintf(cut, sizeof(cut), "%s", msg);
	line_quote(cut, word);
	put(t, "%s", word);
}

static void put_id(struct text *t, const struct session *s, const char *id)
{
	if (s->hello && id[0])
		put(t, " id=%s", id);
}

static void send(struct session *s, struct text *t)
{
	t->p[t->n++] = '\n';
	s->ops->say(s->arg, t->p, t->n);
}

static void say_error(struct session *s, const char *verb, const char *id, int code,
		      const char *extra, const char *msg)
{
	struct text t = {.n = 0};

	put(&t, "%s ", verb);
	if (s->hello) {
		if (id[0])
			put(&t, "id=%s ", id);
		put(&t, "code=%s %s", line_error_name(code), extra);
	}
	put_plain(&t, msg);
	send(s, &t);
}

static void say_done(struct session *s, const char *id, const struct event *e)
{
	const struct phases *p = &e->phases;
	struct text t = {.n = 0};

	put(&t, "DONE %" PRIu64, e->us);
	if (e->host_port)
		put(&t, " host_port=%u", e->host_port);
	put(&t,
	    " reset_vsock_us=%" PRIu64 " remap_cow_us=%" PRIu64 " load_meta_us=%" PRIu64
	    " restore_snapshot_us=%" PRIu64 " ram_copy_us=%" PRIu64 " gic_restore_us=%" PRIu64
	    " vcpu_restore_us=%" PRIu64 " vtimer_offset_us=%" PRIu64 " mmio_restore_us=%" PRIu64
	    " listener_restore_us=%" PRIu64,
	    p->reset_vsock, p->remap_cow, p->load_meta, p->restore_snapshot, p->ram_copy,
	    p->gic_restore, p->vcpu_restore, p->vtimer_offset, p->mmio_restore,
	    p->listener_restore);
	if (s->hello) {
		put(&t, " generation=%" PRIu64 " how=%s", e->generation, e->how);
		if (e->err.code) {
			put(&t, " why=");
			put_quoted(&t, e->err.msg);
		}
		put(&t, " hooks=%u hooks_failed=%u", e->hooks, e->hooks_failed);
	}
	put_id(&t, s, id);
	send(s, &t);
}

static void say_saved(struct session *s, const char *verb, const char *id, const struct event *e)
{
	struct text t = {.n = 0};

	put(&t, "%s bytes_written=%" PRIu64 " capture_us=%" PRIu64 " save_us=%" PRIu64, verb,
	    e->bytes_written, e->capture_us, e->save_us);
	if (s->hello)
		put(&t, " pause_us=%" PRIu64 " diff=%d", e->pause_us, e->diff);
	put_id(&t, s, id);
	send(s, &t);
}

static void say_settled(struct session *s, const struct event *e)
{
	struct text t = {.n = 0};

	if (!s->hello)
		return;
	if (e->kind == EVENT_FAILED) {
		say_error(s, "SETTLED", s->id, e->err.code, "", e->err.msg);
		return;
	}
	put(&t, "SETTLED ");
	if (s->id[0])
		put(&t, "id=%s ", s->id);
	put(&t, "ok");
	send(s, &t);
}

static void say_warmed(struct session *s, const struct event *e)
{
	struct text t = {.n = 0};

	s->warming = false;
	if (e->err.code) {
		say_error(s, "ERR_WARM_UP", s->warm_id, e->err.code, "", e->err.msg);
		return;
	}
	put(&t, "WARMED us=%" PRIu64, e->us);
	put_id(&t, s, s->warm_id);
	send(s, &t);
}

/* ---- leaving ------------------------------------------------------------------------------- */

static void start(struct session *s, enum job_kind kind, const struct request *rq, uint64_t now_us)
{
	struct job j = {.kind = kind, .rq = *rq, .read_us = now_us};

	if (s->warming) {
		struct event e = {.kind = EVENT_WARMED};

		err_set(&e.err, ECANCELED, "another request has come");
		say_warmed(s, &e);
	}
	s->busy = true;
	s->expired = false;
	s->doing = kind;
	s->began_us = now_us;
	s->deadline_ms = rq->deadline_ms;
	memcpy(s->id, rq->id, sizeof(s->id));
	s->ops->start(s->arg, &j);
}

static void leave_if_idle(struct session *s, uint64_t now_us)
{
	static const struct request none;

	if (s->busy || s->left_asked)
		return;
	s->left_asked = true;
	start(s, JOB_LEAVE, &none, now_us);
}

static void leave(struct session *s, unsigned deadline_ms, uint64_t now_us)
{
	if (s->leaving)
		return;
	s->leaving = true;
	s->leave_us = now_us + deadline_ms * (uint64_t)1000;
	leave_if_idle(s, now_us);
}

/* Without HELLO the end of the connection is the only answer that is understood. */
static void break_off(struct session *s, const struct err *why, uint64_t now_us)
{
	if (s->leaving)
		return;
	s->exit_code = EXIT_FAILED;
	s->why = *why;
	s->shut = true;
	leave(s, LINE_DEADLINE_MS, now_us);
}

static void complain(struct session *s, const char *id, const struct err *why, uint64_t now_us)
{
	if (s->hello)
		say_error(s, "ERR_UNKNOWN", id, why->code, "", why->msg);
	else
		break_off(s, why, now_us);
}

/* ---- requests ------------------------------------------------------------------------------ */

static void hello(struct session *s, const struct request *rq)
{
	struct text t = {.n = 0};

	s->hello = true;
	put(&t, "HELLO %u program=smvm-runner/%s vm=%s dir=", LINE_VERSION, SMFS_VERSION, s->vm);
	put_quoted(&t, s->dir);
	put(&t, " line_max=%d deadline_ms=%d", LINE_LEN_MAX, LINE_DEADLINE_MS);
	if (s->forwards && s->forwards[0]) {
		put(&t, " forwards=");
		put_quoted(&t, s->forwards);
	}
	put_id(&t, s, rq->id);
	send(s, &t);
}

/* The request is not carried out, and nothing has changed. */
static void refuse(struct session *s, enum verb verb, const char *id, const struct err *why,
		   uint64_t now_us)
{
	if (verb == VERB_SNAPSHOT || verb == VERB_SNAPSHOT_ASYNC)
		say_error(s, "ERR_SNAPSHOT", id, why->code, "", why->msg);
	else if (verb == VERB_RESTORE && s->hello)
		say_error(s, "ERR_RESTORE", id, why->code,
			  s->machine ? "machine=kept " : "machine=none ", why->msg);
	else if (verb == VERB_WARM_UP)
		say_error(s, "ERR_WARM_UP", id, why->code, "", why->msg);
	else
		complain(s, id, why, now_us);
}

static bool makes_machine(enum job_kind k)
{
	return k == JOB_RESTORE || k == JOB_START;
}

static const char *doing_name(enum job_kind k)
{
	return makes_machine(k) ? "restore in flight" : "snapshot in flight";
}

static void job_request(struct session *s, const struct request *rq, uint64_t now_us)
{
	const enum verb verb = rq->verb;
	struct err why = ERR_INIT;

	if (s->busy)
		err_set(&why, EBUSY, "%s", doing_name(s->doing));
	else if (verb != VERB_RESTORE && !s->machine)
		err_set(&why, ENODATA, "there is no machine to take a snapshot of");
	else if (verb == VERB_SNAPSHOT_ASYNC && s->writing)
		err_set(&why, EBUSY, "another snapshot is being written");
	if (why.code)
		refuse(s, verb, rq->id, &why, now_us);
	else
		start(s,
		      verb == VERB_RESTORE    ? JOB_RESTORE
		      : verb == VERB_SNAPSHOT ? JOB_SNAPSHOT
					      : JOB_SNAPSHOT_ASYNC,
		      rq, now_us);
}

/* Nothing is in flight by it: what comes next ends it. */
static void warm_up(struct session *s, const struct request *rq, uint64_t now_us)
{
	struct job j = {.kind = JOB_WARM_UP, .rq = *rq, .read_us = now_us};
	struct err why = ERR_INIT;

	if (s->busy)
		err_set(&why, EBUSY, "%s", doing_name(s->doing));
	else if (s->writing)
		err_set(&why, EBUSY, "a snapshot is being written");
	else if (s->warming)
		err_set(&why, EBUSY, "another program warms it up");
	else if (!s->machine)
		err_set(&why, ENODATA, "there is no machine to warm up");
	if (why.code) {
		refuse(s, rq->verb, rq->id, &why, now_us);
		return;
	}
	s->warming = true;
	memcpy(s->warm_id, rq->id, sizeof(s->warm_id));
	s->ops->start(s->arg, &j);
}

void session_line(struct session *s, const char *p, size_t n, uint64_t now_us)
{
	struct err why = ERR_INIT;
	struct request rq;

	if (s->leaving)
		return;
	if (line_parse(p, n, s->hello, &rq, &why) < 0) {
		refuse(s, rq.verb, rq.id, &why, now_us);
		return;
	}
	switch (rq.verb) {
	case VERB_NONE:
		break;
	case VERB_HELLO:
		hello(s, &rq);
		break;
	case VERB_QUIT:
		s->bye = s->hello;
		memcpy(s->leave_id, rq.id, sizeof(s->leave_id));
		leave(s, rq.deadline_ms, now_us);
		break;
	case VERB_WARM_UP:
		warm_up(s, &rq, now_us);
		break;
	default:
		job_request(s, &rq, now_us);
	}
}

void session_no_line(struct session *s, int code, uint64_t now_us)
{
	struct err why = ERR_INIT;

	err_set(&why, code, "%s",
		code == ETIMEDOUT ? "a line that was begun and not ended for 60 s"
				  : "a line of more than 16384 bytes");
	if (!s->leaving)
		complain(s, "", &why, now_us);
}

void session_quit(struct session *s, uint64_t now_us)
{
	s->bye = false;
	leave(s, LINE_DEADLINE_MS, now_us);
}

/* ---- events -------------------------------------------------------------------------------- */

/* How it is called that what is in flight has failed. */
static const char *failure_word(const struct session *s)
{
	return !makes_machine(s->doing)		    ? "ERR_SNAPSHOT"
	       : s->doing == JOB_START && s->baking ? "ERR_BAKE"
						    : "ERR_RESTORE";
}

static void job_failed(struct session *s, const struct event *e, uint64_t now_us)
{
	const bool restore = makes_machine(s->doing);

	if (restore && !e->kept)
		s->machine = false;
	if (s->expired) {
		say_settled(s, e);
		if (!s->hello)
			log_warn("after its time-out: %s", e->err.msg);
	} else if (restore && !s->hello) {
		break_off(s, &e->err, now_us);
	} else {
		const bool bake = s->doing == JOB_START && s->baking;

		say_error(s, failure_word(s), s->id, e->err.code,
			  !restore || bake ? ""
			  : s->machine	   ? "machine=kept "
					   : "machine=none ",
			  e->err.msg);
		/* A time-out of the job's own, as of an agent that cannot stop its guest, reads as
		 * that of the answer, which leaves it in flight until it is settled. */
		if (!bake && e->err.code == ETIMEDOUT)
			say_settled(s, e);
	}
}

static void job_done(struct session *s, const struct event *e)
{
	if (e->kind == EVENT_RESTORED || e->kind == EVENT_BAKED)
		s->machine = true;
	if (s->expired) {
		say_settled(s, e);
		return;
	}
	if (e->kind == EVENT_RESTORED) {
		say_done(s, s->id, e);
	} else if (e->kind == EVENT_BAKED) {
		struct text t = {.n = 0};

		put(&t, "BAKE_READY");
		send(s, &t);
	} else if (e->kind == EVENT_SAVED) {
		say_saved(s, "DONE_SNAPSHOT", s->id, e);
	} else if (e->kind == EVENT_ACCEPTED && s->hello) {
		struct text t = {.n = 0};

		put(&t, "ACCEPTED pause_us=%" PRIu64 " copied_bytes=0", e->pause_us);
		put_id(&t, s, s->id);
		send(s, &t);
	}
}

static void written(struct session *s, const struct event *e)
{
	if (!s->unheard && e->kind == EVENT_WRITTEN)
		say_saved(s, "DONE_SNAPSHOT_ASYNC", s->writing_id, e);
	else if (!s->unheard)
		say_error(s, "ERR_SNAPSHOT", s->writing_id, e->err.code, "", e->err.msg);
	s->writing = false;
}

static void ended(struct session *s, const struct event *e)
{
	struct text t = {.n = 0};

	s->machine = false;
	if (!s->hello || s->leaving)
		return;
	put(&t, "ENDED how=%s", e->ended);
	if (e->err.code) {
		put(&t, " why=");
		put_quoted(&t, e->err.msg);
	}
	send(s, &t);
}

static void left(struct session *s)
{
	struct text t = {.n = 0};

	s->over = true;
	if (!s->bye)
		return;
	put(&t, "BYE");
	put_id(&t, s, s->leave_id);
	send(s, &t);
}

void session_event(struct session *s, const struct event *e, uint64_t now_us)
{
	if (e->kind == EVENT_ENDED) {
		ended(s, e);
		return;
	}
	if (e->kind == EVENT_WRITTEN || e->kind == EVENT_UNWRITTEN) {
		written(s, e);
		return;
	}
	if (e->kind == EVENT_WARMED) {
		/* Else it was told when what ended it came. */
		if (s->warming)
			say_warmed(s, e);
		return;
	}
	s->busy = false;
	if (e->kind == EVENT_LEFT) {
		left(s);
		return;
	}
	if (e->kind == EVENT_FAILED)
		job_failed(s, e, now_us);
	else
		job_done(s, e);
	if (e->kind == EVENT_ACCEPTED) {
		s->writing = true;
		s->unheard = s->expired && !s->hello;
		memcpy(s->writing_id, s->id, sizeof(s->writing_id));
		s->writing_since_us = now_us;
		s->progress_us = now_us + PROGRESS_US;
	}
	if (s->leaving)
		leave_if_idle(s, now_us);
}

/* ---- time ----------------------------------------------------------------------------------- */

/* Of the answer to what is in flight; 0: none. */
static uint64_t answer_due_us(const struct session *s)
{
	uint64_t ms = s->deadline_ms;

	if (!s->busy || s->expired || s->doing == JOB_LEAVE)
		return 0;
	/* The seed has no line for a restore that takes long: it is broken off when it is stuck. */
	if (s->doing == JOB_START || (s->doing == JOB_RESTORE && !s->hello))
		ms = LONG_MS;
	if (s->doing == JOB_START && s->baking)
		ms += s->ready_ms;
	return s->began_us + ms * 1000;
}

static bool tells_progress(const struct session *s)
{
	return s->writing && s->hello && !s->leaving;
}

uint64_t session_next_us(const struct session *s)
{
	uint64_t next = answer_due_us(s);

	if (tells_progress(s) && (!next || s->progress_us < next))
		next = s->progress_us;
	if (s->leaving && (!next || s->leave_us < next))
		next = s->leave_us;
	return next;
}

static void time_out(struct session *s, uint64_t now_us)
{
	struct err why = ERR_INIT;

	s->expired = true;
	err_set(&why, ETIMEDOUT, "no answer in time; %s", doing_name(s->doing));
	if (makes_machine(s->doing) && !s->hello)
		break_off(s, &why, now_us);
	else
		say_error(s, failure_word(s), s->id, why.code, "", why.msg);
}

static void progress(struct session *s, uint64_t now_us)
{
	struct text t = {.n = 0};

	put(&t, "PROGRESS elapsed_ms=%" PRIu64 " copied_bytes=%" PRIu64,
	    (now_us - s->writing_since_us) / 1000, s->ops->copied(s->arg));
	put_id(&t, s, s->writing_id);
	send(s, &t);
	s->progress_us = now_us + PROGRESS_US;
}

void session_tick(struct session *s, uint64_t now_us)
{
	const uint64_t due_us = answer_due_us(s);

	if (due_us && now_us >= due_us)
		time_out(s, now_us);
	if (tells_progress(s) && now_us >= s->progress_us)
		progress(s, now_us);
	if (s->leaving && !s->over && now_us >= s->leave_us)
		left(s);
}

/* ---- begin ---------------------------------------------------------------------------------- */

void session_init(struct session *s, const struct session_ops *ops, void *arg, const char *vm,
		  const char *dir)
{
	memset(s, 0, sizeof(*s));
	s->ops = ops;
	s->arg = arg;
	s->vm = vm;
	s->dir = dir;
}

void session_begin(struct session *s, bool with_machine, uint64_t now_us)
{
	static const struct request none = {.deadline_ms = LINE_DEADLINE_MS};
	struct text t = {.n = 0};

	put(&t, "READY");
	send(s, &t);
	if (with_machine)
		start(s, JOB_START, &none, now_us);
}
