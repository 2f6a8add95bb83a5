/*
 * The decoders of the agent protocol, of the boot configuration, of user specifications and of an
 * image's configuration. The first byte chooses one; what a decoder accepts must survive being
 * encoded and decoded again unchanged.
 */
#include "runner/agent/users.h"
#include "runner/control/forward.h"
#include "runner/guest/image.h"
#include "runner/proto/agent_files.h"
#include "runner/proto/agent_reach.h"
#include "runner/proto/bootconf.h"
#include "runner/proto/mailbox.h"
#include "smfs/base/num.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Encodes with `put` twice, a decoding in between; the bytes must agree. */
#define ROUND_TRIP(msg, put, get, release)                                                         \
	do {                                                                                       \
		msg a_, b_;                                                                        \
		cleanup_writer struct writer w1_ = WRITER_INIT, w2_ = WRITER_INIT;                 \
		if (get(&f, &a_, &err) < 0)                                                        \
			break;                                                                     \
		put(&w1_, &a_);                                                                    \
		struct agent_frame g_ = {.type = f.type, .len = (uint32_t)w1_.len, .data = w1_.p}; \
		if (get(&g_, &b_, &err) < 0)                                                       \
			abort();                                                                   \
		put(&w2_, &b_);                                                                    \
		if (w1_.len != w2_.len || memcmp(w1_.p, w2_.p, w1_.len) != 0)                      \
			abort();                                                                   \
		release(&a_);                                                                      \
		release(&b_);                                                                      \
	} while (0)

#define KEEP(x) ((void)(x))

static void results(struct agent_frame f)
{
	struct agent_results *rs = malloc(sizeof(*rs));
	struct err err = ERR_INIT;

	if (rs && agent_get_results(&f, rs, &err) == 0) {
		cleanup_writer struct writer w = WRITER_INIT;

		agent_put_results(&w, rs);
	}
	free(rs);
}

static void bootconf(const uint8_t *data, size_t size)
{
	struct bootconf a, b;
	struct err err = ERR_INIT;
	cleanup_writer struct writer w = WRITER_INIT;

	if (bootconf_decode(data, size, &a, &err) < 0)
		return;
	bootconf_encode(&w, &a);
	if (bootconf_decode(w.p, w.len, &b, &err) < 0)
		abort();
	bootconf_free(&a);
	bootconf_free(&b);
}

/* Two texts and a specification, divided by NULs. */
static void users(const uint8_t *data, size_t size)
{
	char *text = calloc(1, size + 3), *group, *spec;
	struct creds *c = malloc(sizeof(*c));
	struct err err = ERR_INIT;

	if (text && c) {
		memcpy(text, data, size);
		group = text + strlen(text) + 1;
		spec = group <= text + size ? group + strlen(group) + 1 : text + size;
		if (spec > text + size)
			spec = text + size;
		if (group > text + size)
			group = text + size;
		if (users_resolve_text(text, group, spec, c, &err) == 0 &&
		    c->ngroups > USERS_GROUPS_MAX)
			abort();
	}
	free(text);
	free(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct agent_frame f = {0};
	struct err err = ERR_INIT;
	uint16_t type, version;
	uint32_t len;

	if (size < 1)
		return 0;
	f.data = (uint8_t *)data + 1;
	f.len = (uint32_t)size - 1;
	f.type = data[0];
	switch (data[0]) {
	case 0:
		if (f.len >= AGENT_FRAME_HDR)
			agent_header_parse(f.data, &type, &len, &err);
		break;
	case AGENT_HELLO:
		agent_get_hello(&f, &version, &err);
		break;
	case AGENT_ERROR:
		agent_get_error(&f, &err);
		break;
	case AGENT_EXEC:
		ROUND_TRIP(struct agent_exec, agent_put_exec, agent_get_exec, agent_exec_free);
		break;
	case AGENT_EXIT:
		ROUND_TRIP(struct agent_exit, agent_put_exit, agent_get_exit, KEEP);
		break;
	case AGENT_GENERATION:
		ROUND_TRIP(struct agent_generation, agent_put_generation, agent_get_generation,
			   KEEP);
		break;
	case AGENT_STOP:
		ROUND_TRIP(struct agent_stop, agent_put_stop, agent_get_stop, KEEP);
		break;
	case AGENT_INFO_IS:
		ROUND_TRIP(struct agent_info, agent_put_info, agent_get_info, KEEP);
		break;
	case AGENT_RESULTS:
		results(f);
		break;
	case AGENT_READY:
		ROUND_TRIP(struct agent_ready, agent_put_ready, agent_get_ready, agent_ready_free);
		break;
	case AGENT_CONNECT:
		ROUND_TRIP(struct agent_target, agent_put_target, agent_get_target, KEEP);
		break;
	case AGENT_OPENED:
		ROUND_TRIP(struct agent_opened, agent_put_opened, agent_get_opened, KEEP);
		break;
	case AGENT_READ:
		ROUND_TRIP(struct agent_read, agent_put_read, agent_get_read, KEEP);
		break;
	case AGENT_WRITE:
		ROUND_TRIP(struct agent_write, agent_put_write, agent_get_write, KEEP);
		break;
	case AGENT_FETCH:
		ROUND_TRIP(struct agent_fetch, agent_put_fetch, agent_get_fetch, KEEP);
		break;
	case AGENT_PUT:
		ROUND_TRIP(struct agent_put, agent_put_put, agent_get_put, KEEP);
		break;
	case AGENT_ENTRY:
		ROUND_TRIP(struct agent_entry, agent_put_entry, agent_get_entry, KEEP);
		break;
	case AGENT_DONE:
		ROUND_TRIP(struct agent_done, agent_put_done, agent_get_done, KEEP);
		break;
	case 36: {
		char text[512], again[FORWARD_TEXT_MAX];
		struct forward x;

		memcpy(text, f.data, MIN((size_t)f.len, sizeof(text) - 1));
		text[MIN((size_t)f.len, sizeof(text) - 1)] = '\0';
		if (forward_parse(text, &x, &err) == 0 &&
		    forward_parse(forward_text(&x, x.port, again), &x, &err) < 0)
			abort();
		break;
	}
	case 32:
		bootconf(f.data, f.len);
		break;
	case 33:
		users(f.data, f.len);
		break;
	case 34: {
		struct image_config c;

		if (image_config_parse((const char *)f.data, f.len, &c, &err) == 0)
			image_config_free(&c);
		break;
	}
	case 35: {
		struct mailbox m;

		if (f.len >= MAILBOX_LEN)
			mailbox_get(f.data, &m);
		break;
	}
	default:
		break;
	}
	return 0;
}
