/*
 * A hostile host at the agent's files: READ, WRITE, FETCH, PUT of a session whose root has links
 * that lead out of it. Whatever is asked for: nothing outside of the root appears or changes.
 *
 * The input is a recipe for requests. What would run programs, connect, or stop the guest is not
 * among them: that is not for the machine a fuzzer runs on.
 */
#include "runner/agent/session.h"
#include "smfs/base/log.h"
#include "tests/fuzz/fuzz_tree.h"

#include <sys/socket.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REQUESTS_MAX 30 /* so that the answers fit into a socket that nobody reads */

static void put_path(struct reader *r, struct fuzz_paths *all, char *out)
{
	out[0] = '/';
	fuzz_new_path(r, all, out + 1);
}

/* A few bytes of no matter what, as one of the requests. */
static void put_noise(struct writer *w, struct reader *r)
{
	static const uint16_t types[] = {AGENT_READ, AGENT_WRITE, AGENT_FETCH, AGENT_PUT,
					 AGENT_INFO, AGENT_HELLO, AGENT_DATA,  AGENT_ENTRY};
	const uint16_t type = types[get_u8(r) % ARRAY_SIZE(types)];
	const size_t n = MIN((size_t)get_u8(r), r->left);
	const uint8_t *p = get_view(r, n);

	fuzz_put_frame(w, type, p, p ? n : 0);
}

static void put_request(struct writer *w, struct reader *r, struct fuzz_paths *all)
{
	cleanup_writer struct writer x = WRITER_INIT;
	const uint8_t op = get_u8(r);
	static struct agent_read rd;
	static struct agent_write wr;
	static struct agent_fetch fe;
	static struct agent_put pu;

	switch (op % 5) {
	case 0:
		rd = (struct agent_read){.offset = op & 64 ? UINT64_MAX - op : 0,
					 .length = op & 128 ? op : UINT64_MAX};
		put_path(r, all, rd.path);
		agent_put_read(&x, &rd);
		fuzz_put_frame(w, AGENT_READ, x.p, x.len);
		break;
	case 1:
		wr = (struct agent_write){.mode = op & 64 ? 04755 : 0600, .parents = op & 128};
		put_path(r, all, wr.path);
		agent_put_write(&x, &wr);
		fuzz_put_frame(w, AGENT_WRITE, x.p, x.len);
		fuzz_put_content(w, r, get_u8(r));
		fuzz_put_frame(w, AGENT_DONE, NULL, 0);
		break;
	case 2:
		put_path(r, all, fe.path);
		agent_put_fetch(&x, &fe);
		fuzz_put_frame(w, AGENT_FETCH, x.p, x.len);
		break;
	case 3:
		pu = (struct agent_put){.owners = op & 64};
		if (op & 128)
			memcpy(pu.name, "n", 2);
		put_path(r, all, pu.path);
		agent_put_put(&x, &pu);
		fuzz_put_frame(w, AGENT_PUT, x.p, x.len);
		const uint8_t n = get_u8(r);
		struct reader tree = get_sub(r, MIN((size_t)n, r->left));
		fuzz_put_tree(w, &tree);
		break;
	default:
		put_noise(w, r);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char root[sizeof(dir) + 2];
	static struct fuzz_paths all;
	static struct bootconf conf;
	static struct guest g = {.conf = &conf, .root = root, .power_wr = -1, .ended_rd = -1};
	cleanup_writer struct writer w = WRITER_INIT, hello = WRITER_INIT;
	struct reader r = reader_of(data, size);
	struct err err = ERR_INIT;
	int s[2];

	if (size > 4096)
		return 0;
	fuzz_tree_begin(true);
	if (!g.shared) {
		log_init("fuzz", LOG_ERR);
		snprintf(root, sizeof(root), "%s/t", dir);
		must(shared_new(&g.shared, &err) == 0);
	}
	must(symlinkat(dir, base_fd, "t/e") == 0);
	all.path[0][0] = '\0';
	all.n = 1;
	agent_put_hello(&hello);
	fuzz_put_frame(&w, AGENT_HELLO, hello.p, hello.len);
	for (unsigned i = 0; i < REQUESTS_MAX && r.left && w.len < 60000; i++)
		put_request(&w, &r, &all);
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s) == 0);
	must(send(s[1], w.p, w.len, MSG_DONTWAIT) == (ssize_t)w.len);
	shutdown(s[1], SHUT_WR);
	session_serve(&g, s[0]);
	close(s[0]);
	close(s[1]);
	fuzz_tree_check();
	return 0;
}
