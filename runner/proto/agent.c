/* Messages of the agent protocol. Tags are per message; doc/agent-protocol.md lists them. */
#include "runner/proto/agent.h"

#include "runner/proto/tlv.h"
#include "smfs/base/num.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void agent_put_hello(struct writer *w)
{
	put_u32(w, AGENT_MAGIC);
	put_u16(w, AGENT_VERSION);
}

int agent_get_hello(const struct agent_frame *f, uint16_t *version, struct err *err)
{
	struct reader r = reader_of(f->data, f->len);
	uint32_t magic = get_u32(&r);
	uint16_t v = get_u16(&r);

	if (f->type != AGENT_HELLO || !reader_done(&r) || magic != AGENT_MAGIC || v == 0)
		return err_set(err, EPROTO, "agent connection: no HELLO but %s",
			       agent_type_name(f->type));
	*version = MIN(v, (uint16_t)AGENT_VERSION);
	return 0;
}

/* ---- EXEC ---------------------------------------------------------------------------------- */

enum {
	EXEC_ARG = 1,
	EXEC_ENV = 2,
	EXEC_CWD = 3,
	EXEC_USER = 4,
	EXEC_TTY = 5,
	EXEC_STDIN = 6,
	EXEC_ROWS = 7,
	EXEC_COLS = 8,
	EXEC_TIMEOUT = 9,
	EXEC_MEASURE = 10,
};

void agent_put_exec(struct writer *w, const struct agent_exec *x)
{
	put_tlv_list(w, EXEC_ARG, x->argv);
	put_tlv_list(w, EXEC_ENV, x->env);
	put_tlv_str(w, EXEC_CWD, x->cwd);
	put_tlv_str(w, EXEC_USER, x->user);
	put_tlv_u8(w, EXEC_TTY, x->tty);
	put_tlv_u8(w, EXEC_STDIN, x->stdin_open);
	put_tlv_u16(w, EXEC_ROWS, x->rows);
	put_tlv_u16(w, EXEC_COLS, x->cols);
	put_tlv_u32(w, EXEC_TIMEOUT, x->timeout_ms);
	if (x->measure)
		put_tlv_u8(w, EXEC_MEASURE, 1);
}

int agent_get_exec(const struct agent_frame *f, struct agent_exec *x, struct err *err)
{
	struct reader r = reader_of(f->data, f->len);
	unsigned nargs = 0, nenv = 0;
	struct tlv t = {0};
	char *cwd = NULL, *user = NULL;

	*x = (struct agent_exec){0};
	while (tlv_next(&r, &t)) {
		switch (t.tag) {
		case EXEC_ARG:
			tlv_list(&t, &x->argv, &nargs, AGENT_ARGS_MAX);
			break;
		case EXEC_ENV:
			tlv_list(&t, &x->env, &nenv, AGENT_ARGS_MAX);
			break;
		case EXEC_CWD:
			tlv_strdup(&t, &cwd, AGENT_PATH_MAX);
			break;
		case EXEC_USER:
			tlv_strdup(&t, &user, AGENT_NAME_MAX);
			break;
		case EXEC_TTY:
			tlv_bool(&t, &x->tty);
			break;
		case EXEC_STDIN:
			tlv_bool(&t, &x->stdin_open);
			break;
		case EXEC_ROWS:
			tlv_u16(&t, &x->rows);
			break;
		case EXEC_COLS:
			tlv_u16(&t, &x->cols);
			break;
		case EXEC_TIMEOUT:
			tlv_u32(&t, &x->timeout_ms);
			break;
		case EXEC_MEASURE:
			tlv_bool(&t, &x->measure);
			break;
		default:
			break;
		}
		if (t.bad || t.oom)
			break;
	}
	x->cwd = cwd;
	x->user = user;
	if (!x->env && !t.oom && !(x->env = calloc(1, sizeof(*x->env))))
		t.oom = true;
	if (!tlv_ok(&r, &t) || nargs == 0) {
		agent_exec_free(x);
		return tlv_malformed(agent_type_name(f->type), &t, err);
	}
	return 0;
}

void agent_exec_free(struct agent_exec *x)
{
	strv_free(x->argv);
	strv_free(x->env);
	free((char *)x->cwd);
	free((char *)x->user);
	*x = (struct agent_exec){0};
}

/* ---- EXIT ---------------------------------------------------------------------------------- */

enum { EXIT_KIND = 1, EXIT_VALUE = 2, EXIT_PEAK = 3 };

void agent_put_exit(struct writer *w, const struct agent_exit *x)
{
	put_tlv_u8(w, EXIT_KIND, x->kind);
	put_tlv_u32(w, EXIT_VALUE, x->value);
	if (x->peak)
		put_tlv_u64(w, EXIT_PEAK, x->peak);
}

int agent_get_exit(const struct agent_frame *f, struct agent_exit *x, struct err *err)
{
	struct reader r = reader_of(f->data, f->len);
	struct tlv t = {0};

	*x = (struct agent_exit){.kind = UINT8_MAX};
	while (tlv_next(&r, &t)) {
		if (t.tag == EXIT_KIND)
			tlv_u8(&t, &x->kind);
		else if (t.tag == EXIT_VALUE)
			tlv_u32(&t, &x->value);
		else if (t.tag == EXIT_PEAK)
			tlv_u64(&t, &x->peak);
	}
	if (!tlv_ok(&r, &t) || x->kind > AGENT_EXIT_TIMEOUT)
		return tlv_malformed(agent_type_name(f->type), &t, err);
	return 0;
}

int agent_exit_status(const struct agent_exit *x)
{
	switch (x->kind) {
	case AGENT_EXIT_CODE:
		return (int)(x->value & 0xff);
	case AGENT_EXIT_SIGNAL:
		return (int)(128 + (x->value & 0x7f));
	default:
		return 124; /* what timeout(1) reports */
	}
}

/* ---- GENERATION, STOP ---------------------------------------------------------------------- */

enum { GEN_NUMBER = 1, GEN_UUID = 2, GEN_ENTROPY = 3, GEN_WALL = 4, GEN_HOSTNAME = 5, GEN_MID = 6 };

void agent_put_generation(struct writer *w, const struct agent_generation *g)
{
	put_tlv_u64(w, GEN_NUMBER, g->number);
	put_tlv(w, GEN_UUID, g->uuid, sizeof(g->uuid));
	put_tlv(w, GEN_ENTROPY, g->entropy, MIN(g->entropy_len, AGENT_ENTROPY_MAX));
	put_tlv_u64(w, GEN_WALL, g->wall_ns);
	put_tlv_str(w, GEN_HOSTNAME, g->hostname);
	put_tlv_str(w, GEN_MID, g->machine_id);
}

static bool machine_id_ok(const char *s)
{
	return s[0] == '\0' || (strlen(s) == AGENT_MACHINE_ID_LEN &&
				strspn(s, "0123456789abcdef") == AGENT_MACHINE_ID_LEN);
}

int agent_get_generation(const struct agent_frame *f, struct agent_generation *g, struct err *err)
{
	struct reader r = reader_of(f->data, f->len);
	struct tlv t = {0};
	bool number = false, uuid = false;

	*g = (struct agent_generation){0};
	while (tlv_next(&r, &t)) {
		switch (t.tag) {
		case GEN_NUMBER:
			tlv_u64(&t, &g->number);
			number = true;
			break;
		case GEN_UUID:
			tlv_bytes(&t, g->uuid, sizeof(g->uuid));
			uuid = true;
			break;
		case GEN_ENTROPY:
			if (t.len < AGENT_ENTROPY_MIN || t.len > AGENT_ENTROPY_MAX) {
				t.bad = true;
				break;
			}
			tlv_bytes(&t, g->entropy, t.len);
			g->entropy_len = t.len;
			break;
		case GEN_WALL:
			tlv_u64(&t, &g->wall_ns);
			break;
		case GEN_HOSTNAME:
			tlv_str(&t, g->hostname, sizeof(g->hostname));
			break;
		case GEN_MID:
			tlv_str(&t, g->machine_id, sizeof(g->machine_id));
			break;
		default:
			break;
		}
	}
	if (!tlv_ok(&r, &t) || !machine_id_ok(g->machine_id))
		return tlv_malformed(agent_type_name(f->type), &t, err);
	if (!number || !uuid || !g->entropy_len)
		return err_set(err, EPROTO,
			       "agent message GENERATION: number, uuid or entropy missing");
	return 0;
}

enum { STOP_GRACE = 1 };

void agent_put_stop(struct writer *w, const struct agent_stop *s)
{
	put_tlv_u32(w, STOP_GRACE, s->grace_ms);
}

int agent_get_stop(const struct agent_frame *f, struct agent_stop *s, struct err *err)
{
	struct reader r = reader_of(f->data, f->len);
	struct tlv t = {0};

	*s = (struct agent_stop){.grace_ms = 5000};
	while (tlv_next(&r, &t)) {
		if (t.tag == STOP_GRACE)
			tlv_u32(&t, &s->grace_ms);
	}
	return tlv_ok(&r, &t) ? 0 : tlv_malformed(agent_type_name(f->type), &t, err);
}

/* ---- CLOCK --------------------------------------------------------------------------------- */

enum { CLOCK_WALL = 1 };

void agent_put_clock(struct writer *w, const struct agent_clock *c)
{
	put_tlv_u64(w, CLOCK_WALL, c->wall_ns);
}

int agent_get_clock(const struct agent_frame *f, struct agent_clock *c, struct err *err)
{
	struct reader r = reader_of(f->data, f->len);
	struct tlv t = {0};

	*c = (struct agent_clock){0};
	while (tlv_next(&r, &t)) {
		if (t.tag == CLOCK_WALL)
			tlv_u64(&t, &c->wall_ns);
	}
	if (!tlv_ok(&r, &t))
		return tlv_malformed(agent_type_name(f->type), &t, err);
	return c->wall_ns ? 0 : err_set(err, EPROTO, "CLOCK without a time");
}

/* ---- RESULTS ------------------------------------------------------------------------------- */

enum { RESULTS_ENTRY = 1 };

struct agent_result *agent_result_add(struct agent_results *rs, const char *item, int code,
				      uint64_t us, const char *fmt, ...)
{
	struct agent_result *r = &rs->r[MIN(rs->n, AGENT_RESULTS_MAX - 1)];
	va_list ap;

	if (rs->n == AGENT_RESULTS_MAX) {
		*r = (struct agent_result){.item = "more", .code = E2BIG};
		snprintf(r->detail, sizeof(r->detail), "only the first %u items are listed",
			 AGENT_RESULTS_MAX - 1);
		return r;
	}
	rs->n++;
	*r = (struct agent_result){.code = (uint32_t)code, .us = us};
	snprintf(r->item, sizeof(r->item), "%s", item);
	va_start(ap, fmt);
	vsnprintf(r->detail, sizeof(r->detail), fmt, ap);
	va_end(ap);
	return r;
}

void agent_put_results(struct writer *w, const struct agent_results *rs)
{
	for (unsigned i = 0; i < rs->n; i++) {
		const struct agent_result *r = &rs->r[i];
		size_t ni = strlen(r->item), nd = strlen(r->detail);

		put_u16(w, RESULTS_ENTRY);
		put_u32(w, (uint32_t)(4 + 8 + 2 + ni + 2 + nd + (r->limit_ms ? 4 : 0)));
		put_u32(w, r->code);
		put_u64(w, r->us);
		put_blob16(w, r->item, ni);
		put_blob16(w, r->detail, nd);
		if (r->limit_ms)
			put_u32(w, r->limit_ms);
	}
}

static bool get_text16(struct reader *r, char *out, size_t cap)
{
	size_t n;
	const void *p = get_blob16(r, cap - 1, &n);

	if (!p || memchr(p, 0, n))
		return false;
	memcpy(out, p, n);
	out[n] = '\0';
	return true;
}

int agent_get_results(const struct agent_frame *f, struct agent_results *rs, struct err *err)
{
	struct reader r = reader_of(f->data, f->len);
	struct tlv t = {0};

	rs->n = 0;
	while (tlv_next(&r, &t)) {
		struct reader e = reader_of(t.p, t.len);
		struct agent_result *x = &rs->r[rs->n];

		if (t.tag != RESULTS_ENTRY)
			continue;
		if (rs->n == AGENT_RESULTS_MAX)
			return tlv_malformed(agent_type_name(f->type), &t, err);
		x->code = get_u32(&e);
		x->us = get_u64(&e);
		if (!get_text16(&e, x->item, sizeof(x->item)) ||
		    !get_text16(&e, x->detail, sizeof(x->detail)))
			return tlv_malformed(agent_type_name(f->type), &t, err);
		x->limit_ms = e.left ? get_u32(&e) : 0;
		if (!reader_done(&e))
			return tlv_malformed(agent_type_name(f->type), &t, err);
		rs->n++;
	}
	return tlv_ok(&r, &t) ? 0 : tlv_malformed(agent_type_name(f->type), &t, err);
}

/* ---- INFO_IS ------------------------------------------------------------------------------- */

enum {
	INFO_UPTIME = 1,
	INFO_READY = 2,
	INFO_ENTRY_STATE = 3,
	INFO_ENTRY_EXIT_KIND = 4,
	INFO_ENTRY_EXIT_VALUE = 5,
	INFO_ENTRY_PID = 6,
	INFO_FROZEN = 7,
	INFO_GENERATION = 8,
	INFO_UUID = 9,
	INFO_MAILBOX_GENERATION = 10,
	INFO_SESSIONS = 11,
	INFO_KERNEL = 12,
	INFO_ROOTFS = 13,
	INFO_AGENT = 14,
};

void agent_put_info(struct writer *w, const struct agent_info *i)
{
	put_tlv_u64(w, INFO_UPTIME, i->uptime_ms);
	put_tlv_u64(w, INFO_READY, i->ready_ms);
	put_tlv_u8(w, INFO_ENTRY_STATE, i->entry_state);
	put_tlv_u8(w, INFO_ENTRY_EXIT_KIND, i->entry_exit.kind);
	put_tlv_u32(w, INFO_ENTRY_EXIT_VALUE, i->entry_exit.value);
	put_tlv_u32(w, INFO_ENTRY_PID, i->entry_pid);
	put_tlv_u8(w, INFO_FROZEN, i->frozen);
	put_tlv_u64(w, INFO_GENERATION, i->generation);
	put_tlv(w, INFO_UUID, i->uuid, sizeof(i->uuid));
	if (i->mailbox)
		put_tlv_u64(w, INFO_MAILBOX_GENERATION, i->mailbox_generation);
	put_tlv_u32(w, INFO_SESSIONS, i->sessions);
	put_tlv_str(w, INFO_KERNEL, i->kernel);
	put_tlv_str(w, INFO_ROOTFS, i->rootfs);
	put_tlv_str(w, INFO_AGENT, i->agent);
}

int agent_get_info(const struct agent_frame *f, struct agent_info *i, struct err *err)
{
	struct reader r = reader_of(f->data, f->len);
	struct tlv t = {0};

	*i = (struct agent_info){0};
	while (tlv_next(&r, &t)) {
		switch (t.tag) {
		case INFO_UPTIME:
			tlv_u64(&t, &i->uptime_ms);
			break;
		case INFO_READY:
			tlv_u64(&t, &i->ready_ms);
			break;
		case INFO_ENTRY_STATE:
			tlv_u8(&t, &i->entry_state);
			break;
		case INFO_ENTRY_EXIT_KIND:
			tlv_u8(&t, &i->entry_exit.kind);
			break;
		case INFO_ENTRY_EXIT_VALUE:
			tlv_u32(&t, &i->entry_exit.value);
			break;
		case INFO_ENTRY_PID:
			tlv_u32(&t, &i->entry_pid);
			break;
		case INFO_FROZEN:
			tlv_bool(&t, &i->frozen);
			break;
		case INFO_GENERATION:
			tlv_u64(&t, &i->generation);
			break;
		case INFO_UUID:
			tlv_bytes(&t, i->uuid, sizeof(i->uuid));
			break;
		case INFO_MAILBOX_GENERATION:
			tlv_u64(&t, &i->mailbox_generation);
			i->mailbox = true;
			break;
		case INFO_SESSIONS:
			tlv_u32(&t, &i->sessions);
			break;
		case INFO_KERNEL:
			tlv_str(&t, i->kernel, sizeof(i->kernel));
			break;
		case INFO_ROOTFS:
			tlv_str(&t, i->rootfs, sizeof(i->rootfs));
			break;
		case INFO_AGENT:
			tlv_str(&t, i->agent, sizeof(i->agent));
			break;
		default:
			break;
		}
	}
	if (!tlv_ok(&r, &t) || i->entry_state > AGENT_ENTRY_EXITED ||
	    i->entry_exit.kind > AGENT_EXIT_TIMEOUT)
		return tlv_malformed(agent_type_name(f->type), &t, err);
	return 0;
}

/* ---- ERROR --------------------------------------------------------------------------------- */

enum { ERROR_CODE = 1, ERROR_MESSAGE = 2 };

void agent_put_error(struct writer *w, int code, const char *message)
{
	put_tlv_u32(w, ERROR_CODE, (uint32_t)code);
	put_tlv(w, ERROR_MESSAGE, message, strnlen(message, ERR_MSG_MAX - 1));
}

int agent_get_error(const struct agent_frame *f, struct err *err)
{
	struct reader r = reader_of(f->data, f->len);
	struct tlv t = {0};
	char message[ERR_MSG_MAX] = "";
	uint32_t code = 0;

	while (tlv_next(&r, &t)) {
		if (t.tag == ERROR_CODE)
			tlv_u32(&t, &code);
		else if (t.tag == ERROR_MESSAGE)
			tlv_str(&t, message, sizeof(message));
	}
	/* 4095 is MAX_ERRNO, the largest value Linux itself could return. */
	if (!tlv_ok(&r, &t) || code == 0 || code > 4095)
		return tlv_malformed(agent_type_name(f->type), &t, err);
	/* The text comes from the guest: what would act on a terminal does not pass. */
	for (char *p = message; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = '?';
	return err_set(err, (int)code, "guest: %s", message);
}
