#include "runner/proto/agent_reach.h"

#include "runner/proto/tlv.h"
#include "smfs/base/num.h"

#include <string.h>

/* ---- READY --------------------------------------------------------------------------------- */

enum { READY_CONDITION = 1, READY_TIMEOUT = 2 };

void agent_put_ready(struct writer *w, const struct agent_ready *q)
{
	put_tlv_list(w, READY_CONDITION, q->condition);
	put_tlv_u32(w, READY_TIMEOUT, q->timeout_ms);
}

int agent_get_ready(const struct agent_frame *f, struct agent_ready *q, struct err *err)
{
	struct reader r = reader_of(f->data, f->len);
	enum agent_condition kind;
	struct tlv t = {0};
	const char *arg;
	unsigned n = 0;
	int ret = 0;

	*q = (struct agent_ready){0};
	while (!t.bad && !t.oom && tlv_next(&r, &t)) {
		if (t.tag == READY_CONDITION && t.len > AGENT_CONDITION_MAX)
			t.bad = true;
		else if (t.tag == READY_CONDITION)
			tlv_list(&t, &q->condition, &n, AGENT_CONDITIONS_MAX);
		else if (t.tag == READY_TIMEOUT)
			tlv_u32(&t, &q->timeout_ms);
	}
	if (!tlv_ok(&r, &t) || n == 0)
		ret = tlv_malformed("READY", &t, err);
	for (unsigned i = 0; ret == 0 && i < n; i++)
		if (agent_condition_parse(q->condition[i], &kind, &arg, err) < 0)
			ret = -EPROTO;
	if (ret < 0)
		agent_ready_free(q);
	return ret;
}

void agent_ready_free(struct agent_ready *q)
{
	strv_free(q->condition);
	*q = (struct agent_ready){0};
}

int agent_condition_parse(const char *text, enum agent_condition *kind, const char **arg,
			  struct err *err)
{
	static const struct {
		const char *word;
		enum agent_condition kind;
	} words[] = {{"port:", CONDITION_PORT},
		     {"file:", CONDITION_FILE},
		     {"log:", CONDITION_LOG},
		     {"exec:", CONDITION_EXEC}};
	uint64_t port;

	*arg = "";
	if (!strcmp(text, "agent")) {
		*kind = CONDITION_AGENT;
		return 0;
	}
	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		size_t n = strlen(words[i].word);

		if (strncmp(text, words[i].word, n) != 0)
			continue;
		*kind = words[i].kind;
		*arg = text + n;
		if (!**arg || strlen(*arg) > AGENT_CONDITION_MAX)
			break;
		if (*kind == CONDITION_PORT && parse_u64(*arg, 1, UINT16_MAX, &port, NULL) < 0)
			break;
		if (*kind == CONDITION_FILE && **arg != '/')
			break;
		return 0;
	}
	return err_set(err, EINVAL,
		       "condition '%.100s': agent, port:1-65535, file:/PATH, log:EXPRESSION or "
		       "exec:COMMAND are known",
		       text);
}

/* ---- CONNECT ------------------------------------------------------------------------------- */

enum { TARGET_PORT = 1, TARGET_PATH = 2 };

void agent_put_target(struct writer *w, const struct agent_target *t)
{
	if (t->port)
		put_tlv_u16(w, TARGET_PORT, t->port);
	put_tlv_str(w, TARGET_PATH, t->path);
}

int agent_get_target(const struct agent_frame *f, struct agent_target *x, struct err *err)
{
	struct reader r = reader_of(f->data, f->len);
	struct tlv t = {0};

	*x = (struct agent_target){0};
	while (tlv_next(&r, &t)) {
		if (t.tag == TARGET_PORT)
			tlv_u16(&t, &x->port);
		else if (t.tag == TARGET_PATH)
			tlv_str(&t, x->path, sizeof(x->path));
	}
	if (!tlv_ok(&r, &t))
		return tlv_malformed("CONNECT", &t, err);
	if (!x->port == !x->path[0] || (x->path[0] && x->path[0] != '/'))
		return err_set(err, EPROTO, "CONNECT: a port or an absolute path is needed");
	return 0;
}
