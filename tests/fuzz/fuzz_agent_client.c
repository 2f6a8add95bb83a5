/*
 * A hostile agent: what it answers to each request of the host. The first byte chooses the request,
 * and whether what follows is bytes as they are, or a type and a length before those of each frame.
 * Whatever comes: the call ends, what it gives out is whole, and nothing of the host's is touched
 * but what was to be written.
 */
#include "runner/guest/agent_client.h"
#include "tests/fuzz/fuzz_tree.h"

#include <sys/mman.h>
#include <sys/socket.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MS 1000 /* never passes: the connection ends with the input */

static void put_frames(struct writer *w, struct reader *r)
{
	while (r->left && w->len < 60000) {
		const uint16_t type = get_u8(r);
		const uint8_t n = get_u8(r);
		/* Lengths that matter, and others. */
		const size_t len = MIN(n < 200 ? n : (size_t)(n - 199) * 997, r->left);

		fuzz_put_frame(w, type, get_view(r, len), len);
	}
}

static void exec(struct agent *a)
{
	char *argv[] = {"x", NULL}, *env[] = {NULL};
	const struct agent_exec x = {.argv = argv, .env = env};
	struct agent_output o;
	struct err err = ERR_INIT;

	if (agent_exec_capture(a, &x, "in", 2, 4096, MS, &o, &err) == 0)
		must(o.out && o.err && !o.out[o.out_len] && !o.err[o.err_len] && o.out_len <= 4096);
	agent_output_free(&o);
}

static void copy(struct agent *a, uint8_t what)
{
	const struct tree_policy p = {
		.owners = what & 64, .max_bytes = 1 << 20, .max_entries = 200, .idle_ms = MS};
	static int file = -1;
	struct agent_write w = {.path = "/x"};
	struct agent_put q = {.path = "/x"};
	struct agent_opened o;
	struct agent_done done;
	struct err err = ERR_INIT;

	if (file < 0)
		file = memfd_create("fuzz", MFD_CLOEXEC);
	must(ftruncate(file, 0) == 0 && lseek(file, 0, SEEK_SET) == 0);
	switch (what % 4) {
	case 0:
		if (agent_file_read(a, "/x", 0, 1000, UINT64_MAX, file, &o, &done, &err) == 0)
			must(done.bytes <= 1000 && lseek(file, 0, SEEK_END) == (off_t)done.bytes);
		break;
	case 1:
		must(pwrite(file, "bytes", 5, 0) == 5);
		agent_file_write(a, &w, file, &done, &err);
		break;
	case 2:
		agent_fetch(a, "/x", base_fd, "t", &p, &done, &err);
		break;
	default:
		agent_put(a, base_fd, "t", &q, &done, &err);
	}
}

static void call(struct agent *a, uint8_t what)
{
	static struct agent_results rs;
	static const struct agent_generation g = {.entropy_len = AGENT_ENTROPY_MIN};
	char *conditions[] = {"port:1", NULL};
	struct agent_info i;
	struct agent_exit x;
	struct err err = ERR_INIT;

	switch (what % 8) {
	case 0:
		agent_info(a, &i, MS, &err);
		break;
	case 1:
		exec(a);
		break;
	case 2:
		if (agent_generation(a, &g, MS, &rs, &err) == 0)
			must(rs.n <= AGENT_RESULTS_MAX);
		break;
	case 3:
		agent_ready(a, conditions, MS, &rs, &err);
		break;
	case 4:
		agent_wait(a, MS, &x, &err);
		break;
	default:
		copy(a, what / 8);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	cleanup_writer struct writer w = WRITER_INIT, hello = WRITER_INIT;
	struct err err = ERR_INIT;
	struct agent *a = NULL;
	int s[2];

	if (size < 2 || size > 50000)
		return 0;
	const uint8_t how = data[0], what = data[1];
	struct reader r = reader_of(data + 2, size - 2);

	fuzz_tree_begin(true);
	agent_put_hello(&hello);
	if (!(how & 2))
		fuzz_put_frame(&w, AGENT_HELLO, hello.p, hello.len);
	if (how & 1)
		put_bytes(&w, r.p, r.left);
	else
		put_frames(&w, &r);
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s) == 0);
	must(!w.len || send(s[1], w.p, w.len, MSG_DONTWAIT) == (ssize_t)w.len);
	shutdown(s[1], SHUT_WR);
	if (agent_attach(s[0], MS, &a, &err) == 0)
		call(a, what);
	else
		must(err.code);
	agent_close(a);
	close(s[1]);
	fuzz_tree_check();
	return 0;
}
