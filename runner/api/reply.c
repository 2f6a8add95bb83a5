#include "runner/api/reply.h"

#include "runner/worker/line.h"
#include "smfs/base/num.h"

#include <string.h>

static const struct {
	const char *word;
	enum reply_kind kind;
} kinds[] = {
	{"READY", REPLY_READY},
	{"HELLO", REPLY_HELLO},
	{"DONE", REPLY_DONE},
	{"DONE_SNAPSHOT", REPLY_SNAPSHOT},
	{"DONE_SNAPSHOT_ASYNC", REPLY_SNAPSHOT_ASYNC},
	{"ACCEPTED", REPLY_ACCEPTED},
	{"BAKE_READY", REPLY_BAKED},
	{"ERR_RESTORE", REPLY_ERR_RESTORE},
	{"ERR_SNAPSHOT", REPLY_ERR_SNAPSHOT},
	{"ERR_BAKE", REPLY_ERR_BAKE},
	{"ERR_UNKNOWN", REPLY_ERR_UNKNOWN},
	{"SETTLED", REPLY_SETTLED},
	{"ENDED", REPLY_ENDED},
	{"BYE", REPLY_BYE},
};

static void put_number(const char *text, uint64_t *out)
{
	parse_u64(text, 0, UINT64_MAX, out, NULL);
}

static void put_text(const char *text, char *out, size_t n)
{
	/* What does not fit is not what it says it is. */
	if (strlen(text) < n)
		memcpy(out, text, strlen(text) + 1);
}

static void put_pair(struct reply *r, const char *key, const char *value)
{
	struct smvm_restored *t = &r->restored;
	struct smvm_snapshotted *s = &r->snapshotted;
	const struct {
		const char *key;
		uint64_t *to;
	} numbers[] = {
		{"reset_vsock_us", &t->reset_vsock_us},
		{"remap_cow_us", &t->remap_cow_us},
		{"load_meta_us", &t->load_meta_us},
		{"restore_snapshot_us", &t->restore_snapshot_us},
		{"ram_copy_us", &t->ram_copy_us},
		{"gic_restore_us", &t->gic_restore_us},
		{"vcpu_restore_us", &t->vcpu_restore_us},
		{"vtimer_offset_us", &t->vtimer_offset_us},
		{"mmio_restore_us", &t->mmio_restore_us},
		{"listener_restore_us", &t->listener_restore_us},
		{"generation", &t->generation},
		{"bytes_written", &s->bytes_written},
		{"capture_us", &s->capture_us},
		{"save_us", &s->save_us},
	};
	uint64_t port = 0;

	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		if (!strcmp(key, numbers[i].key))
			put_number(value, numbers[i].to);
	if (!strcmp(key, "host_port") && parse_u64(value, 1, 65535, &port, NULL) == 0)
		t->host_port = (unsigned)port;
	else if (!strcmp(key, "how"))
		put_text(value, t->how, sizeof(t->how));
	else if (!strcmp(key, "id"))
		put_text(value, r->id, sizeof(r->id));
	else if (!strcmp(key, "vm"))
		put_text(value, r->vm, sizeof(r->vm));
	else if (!strcmp(key, "dir"))
		put_text(value, r->dir, sizeof(r->dir));
	else if (!strcmp(key, "forwards"))
		put_text(value, r->forwards, sizeof(r->forwards));
}

/* "[id=X ]code=NAME text", or in the seed dialect only text. */
static void put_error(struct reply *r, char *rest)
{
	const char *kept = "";
	int code = EIO;

	for (;;) {
		rest += strspn(rest, " ");
		size_t n = strcspn(rest, " ");
		char *end = rest + n;
		bool last = !*end;

		if (!strncmp(rest, "id=", 3) && n - 3 <= REPLY_ID_MAX) {
			memcpy(r->id, rest + 3, n - 3);
			r->id[n - 3] = '\0';
		} else if (!strncmp(rest, "code=", 5)) {
			code = line_error_code(rest + 5, n - 5);
		} else if (r->kind == REPLY_ERR_RESTORE && !strncmp(rest, "machine=", 8)) {
			kept = !strncmp(rest + 8, "kept", 4) ? "; the machine is as before"
							     : "; there is no machine";
		} else {
			break;
		}
		rest = last ? end : end + 1;
	}
	err_set(&r->err, code, "%s%s", *rest ? rest : "no reason given", kept);
}

static void put_ended(struct reply *r, const char *rest)
{
	char key[LINE_KEY_MAX], value[LINE_PATH_MAX], how[32] = "unknown", why[LINE_PATH_MAX] = "";
	const char *end = rest + strlen(rest);

	while (line_word(&rest, end, key, value) > 0) {
		if (!strcmp(key, "how"))
			put_text(value, how, sizeof(how));
		else if (!strcmp(key, "why"))
			put_text(value, why, sizeof(why));
	}
	err_set(&r->err, ECANCELED, "the machine has ended: %s%s%s", how, why[0] ? ": " : "", why);
}

static int put_pairs(struct reply *r, const char *rest)
{
	char key[LINE_KEY_MAX], value[LINE_PATH_MAX];
	const char *end = rest + strlen(rest);
	bool first = true;

	while (line_word(&rest, end, key, value) > 0) {
		if (key[0]) {
			put_pair(r, key, value);
		} else if (r->kind == REPLY_DONE && first) {
			if (parse_u64(value, 0, UINT64_MAX, &r->restored.us, NULL) < 0)
				return -EPROTO;
			first = false;
		}
	}
	return r->kind == REPLY_DONE && first ? -EPROTO : 0;
}

/* "[id=X ]ok", or as an error. */
static void put_settled(struct reply *r, char *rest)
{
	size_t n = strlen(rest);

	put_error(r, rest);
	if (n >= 2 && !strcmp(r->err.msg, "ok"))
		err_clear(&r->err);
}

int reply_parse(char *line, struct reply *out, struct err *err)
{
	size_t n = strcspn(line, " ");
	char *rest = line + n + (line[n] ? 1 : 0);

	memset(out, 0, sizeof(*out));
	line[n] = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (!strcmp(line, kinds[i].word))
			out->kind = kinds[i].kind;
	switch (out->kind) {
	case REPLY_ERR_RESTORE:
	case REPLY_ERR_SNAPSHOT:
	case REPLY_ERR_BAKE:
	case REPLY_ERR_UNKNOWN:
		put_error(out, rest);
		return 0;
	case REPLY_SETTLED:
		put_settled(out, rest);
		return 0;
	case REPLY_ENDED:
		put_ended(out, rest);
		return 0;
	default:
		if (put_pairs(out, rest) < 0)
			return err_set(err, EPROTO,
				       "the worker's answer is not in the protocol: %s", line);
		return 0;
	}
}
