/*
 * A tree from a hostile guest, into a folder of this host. The input is frames as they are, or a
 * recipe (bit 0 of the first byte) for entries below those that came before it, so that they meet
 * links, folders and each other. Whatever comes: nothing beside the destination appears or changes.
 * What was taken in is sent again, and must arrive as what it was.
 */
#include "runner/proto/tree.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"
#include "tests/fuzz/fuzz_tree.h"

#include <sys/socket.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RECIPE = 1, OWNERS = 2, DEVICES = 4, MERGE = 8, POPULATED = 16 };

static struct agent_frame frame; /* its memory is kept from one input to the next */

/* Bytes of the guest's, all that there will be. */
static int connection(const void *p, size_t n, int *other)
{
	int s[2];

	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s) == 0);
	must(!n || send(s[1], p, n, MSG_DONTWAIT) == (ssize_t)n);
	must(shutdown(s[1], SHUT_WR) == 0);
	*other = s[1];
	return s[0];
}

/* A recipe's tree is small enough for a socket to hold. */
static void send_again(const struct tree_policy *p, const struct agent_done *had)
{
	struct agent_done sent, got;
	struct err err = ERR_INIT;
	int s[2];

	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s) == 0);
	must(tree_send(s[0], base_fd, "t", 0, &sent, &err) == 0);
	must(shutdown(s[0], SHUT_WR) == 0);
	must(tree_receive(s[1], &frame, base_fd, "u", p, &got, &err) == 0);
	must(got.entries == sent.entries && got.bytes == sent.bytes);
	/* Names may have replaced each other, so that there are fewer. */
	must(sent.entries + sent.skipped <= had->entries);
	close(s[0]);
	close(s[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t how = size ? data[0] : 0;
	const struct tree_policy p = {.owners = how & OWNERS,
				      .devices = how & DEVICES,
				      .max_bytes = 1 << 20,
				      .max_entries = 200,
				      .idle_ms = 1000};
	const char *as = how & MERGE ? "." : "t";
	cleanup_writer struct writer w = WRITER_INIT;
	struct agent_done done;
	struct err err = ERR_INIT;
	cleanup_fd int into = -1, other = -1;
	int r;

	if (size < 1 || size > 50000)
		return 0;
	fuzz_tree_begin(how & POPULATED || how & MERGE);
	into = openat(base_fd, how & MERGE ? "t" : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	must(into >= 0);
	if (how & RECIPE) {
		struct reader recipe = reader_of(data + 1, size - 1);

		fuzz_put_tree(&w, &recipe);
	} else {
		put_bytes(&w, data + 1, size - 1);
	}
	cleanup_fd int fd = connection(w.p, w.len, &other);
	r = tree_receive(fd, &frame, into, as, &p, &done, &err);
	must(r == 0 || err.code);
	/* A top that is a device may have been skipped. */
	if (r == 0 && how & RECIPE && !(how & (MERGE | POPULATED)) && done.skipped < done.entries)
		send_again(&p, &done);
	fuzz_tree_check();
	return 0;
}
