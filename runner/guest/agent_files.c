/* The host's side of files and trees. */
#include "runner/guest/agent_client.h"
#include "runner/guest/agent_conn.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"

#include <string.h>

#define IDLE_MS 120000 /* a guest that is silent for so long in a transfer has failed */

static int set_path(char to[AGENT_PATH_MAX + 1], const char *path, struct err *err)
{
	size_t n = strlen(path);

	if (path[0] != '/' || n > AGENT_PATH_MAX)
		return err_set(err, EINVAL, "%.200s: not an absolute path of at most %u bytes",
			       path, AGENT_PATH_MAX);
	memcpy(to, path, n + 1);
	return 0;
}

/* Sends a request; what it opened. */
static int begin(struct agent *a, uint16_t type, const struct writer *w, struct agent_opened *o,
		 struct err *err)
{
	struct agent_opened none;
	int r = agent_needs(a, agent_type_since(type), "copy files", err);

	if (r == 0)
		r = agent_call(a, type, w, AGENT_OPENED, AGENT_TIMEOUT_MS, err);
	return r < 0 ? r : agent_get_opened(&a->frame, o ? o : &none, err);
}

/* The agent's last word on what was sent to it. */
static int end(struct agent *a, struct agent_done *done, struct err *err)
{
	int r = agent_frame_read(a->fd, &a->frame, IDLE_MS, err);

	if (r < 0)
		return r;
	if (a->frame.type == AGENT_ERROR)
		return agent_get_error(&a->frame, err);
	if (a->frame.type != AGENT_DONE)
		return err_set(err, EPROTO, "the agent sent %s at the end of a copy",
			       agent_type_name(a->frame.type));
	return agent_get_done(&a->frame, done, err);
}

int agent_file_read(struct agent *a, const char *path, uint64_t offset, uint64_t length,
		    uint64_t max_bytes, int out, struct agent_opened *o, struct agent_done *done,
		    struct err *err)
{
	cleanup_writer struct writer w = WRITER_INIT;
	struct agent_read q = {.offset = offset, .length = length};
	int r = set_path(q.path, path, err);

	if (r < 0)
		return r;
	agent_put_read(&w, &q);
	r = begin(a, AGENT_READ, &w, o, err);
	return r < 0 ? r
		     : file_receive(a->fd, &a->frame, out, path, MIN(length, max_bytes), IDLE_MS,
				    done, err);
}

int agent_file_write(struct agent *a, const struct agent_write *q, int in, struct agent_done *done,
		     struct err *err)
{
	cleanup_writer struct writer w = WRITER_INIT;
	int r;

	agent_put_write(&w, q);
	r = begin(a, AGENT_WRITE, &w, NULL, err);
	if (r == 0)
		r = file_send(a->fd, in, 0, UINT64_MAX, IDLE_MS, done, err);
	return r < 0 ? r : end(a, done, err);
}

int agent_fetch(struct agent *a, const char *path, int dirfd, const char *name,
		const struct tree_policy *p, struct agent_done *done, struct err *err)
{
	cleanup_writer struct writer w = WRITER_INIT;
	struct tree_policy patient = *p;
	struct agent_fetch q;
	int r = set_path(q.path, path, err);

	if (r < 0)
		return r;
	agent_put_fetch(&w, &q);
	if (!patient.idle_ms)
		patient.idle_ms = IDLE_MS;
	r = begin(a, AGENT_FETCH, &w, NULL, err);
	return r < 0 ? r : tree_receive(a->fd, &a->frame, dirfd, name, &patient, done, err);
}

int agent_put(struct agent *a, int dirfd, const char *name, const struct agent_put *q,
	      struct agent_done *done, struct err *err)
{
	cleanup_writer struct writer w = WRITER_INIT;
	struct agent_done sent;
	int r;

	agent_put_put(&w, q);
	r = begin(a, AGENT_PUT, &w, NULL, err);
	if (r == 0)
		r = tree_send(a->fd, dirfd, name, IDLE_MS, &sent, err);
	if (r == 0)
		r = end(a, done, err);
	if (r == 0)
		done->skipped += sent.skipped;
	return r;
}
