/*
 * What keeper, servers and `smfs remount` take from each other. The first byte chooses: 0 a message
 * on a keeper's socket; 1 the table that a killed server leaves (takeover.h), of which the input is
 * entries and counts at the places it names: the next one reads what it will, within its bounds.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "smfs/base/num.h"
#include "smfs/mount/keeper.h"
#include "smfs/mount/takeover.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool yes)
{
	if (!yes)
		abort();
}

static void fuzz_message(const uint8_t *data, size_t size)
{
	struct keeper_message m;
	int sock[2], fd;

	must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sock) == 0);
	must(send(sock[0], data, size, 0) == (ssize_t)size);
	close(sock[0]);
	int r = keeper_hear(sock[1], &m, &fd);
	must(r == 0 ? size >= sizeof(m) : size != sizeof(m));
	must(fd < 0 && (r < 0 || memchr(m.err.msg, '\0', sizeof(m.err.msg))));
	close(sock[1]);
}

/* Where the arrays are: the header has its own page-aligned length. */
#define NODES_AT align_up(sizeof(struct takeover_area), 4096)

static void write_entries(struct takeover_area *area, const uint8_t *data, size_t size)
{
	uint8_t *nodes = (uint8_t *)area + NODES_AT;
	uint8_t *handles = nodes + (size_t)TAKEOVER_NODES * sizeof(struct takeover_node);
	uint8_t *cells = handles + (size_t)TAKEOVER_HANDLES * sizeof(struct takeover_handle);
	const struct {
		uint8_t *base;
		size_t len;
	} array[] = {{nodes, sizeof(struct takeover_node)},
		     {handles, sizeof(struct takeover_handle)},
		     {cells, sizeof(struct takeover_cell)}};

	/* Small entries at low numbers, as a table in use has them. */
	while (size >= 2) {
		size_t k = data[0] % ARRAY_SIZE(array), n = MIN(array[k].len, size - 2);

		memcpy(array[k].base + data[1] % 16 * array[k].len, data + 2, n);
		data += 2 + n;
		size -= 2 + n;
	}
}

static void fuzz_table(const uint8_t *data, size_t size)
{
	uint8_t text[TAKEOVER_TEXT_MAX];
	const struct takeover_node *e;
	struct takeover *t;
	uint64_t fh;

	if (size < 4)
		return;
	must(takeover_map(-1, &t, NULL) == 0);
	struct takeover_area *a = takeover_area(t);
	atomic_store(&a->nodes_high, data[0] % 17);
	atomic_store(&a->handles_high, data[1] % 17);
	/* May be anything. */
	atomic_store(&a->cells_high, data[2] < 128 ? data[2] % 17 : UINT64_MAX >> data[3] % 64);
	if (atomic_load(&a->cells_high) > TAKEOVER_CELLS)
		atomic_store(&a->cells_high, 17);
	write_entries(a, data + 4, size - 4);
	takeover_begin(t);
	for (uint32_t slot = 0; (e = takeover_next_node(t, &slot));)
		must(takeover_text(t, e, text) <= sizeof(text));
	for (uint32_t slot = 0; takeover_next_handle(t, &slot, &fh);)
		must(takeover_handle_slot(fh) < TAKEOVER_HANDLES);
	/* And goes on with it. */
	struct node n = {.ino = 7, .lookups = 1, .key = {.tag = 5}};
	for (int i = 0; i < 20; i++) {
		uint32_t at = takeover_add_node(t, &n, "some text that goes along with it", 33);

		must(at != TAKEOVER_NONE);
		must(takeover_text(t, takeover_node(t, at), text) == 33);
		must(memcmp(text, "some text that goes along with it", 33) == 0);
		if (i % 3 == 0)
			takeover_drop_node(t, at);
	}
	takeover_unmap(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size > 1 && data[0] % 2 == 0)
		fuzz_message(data + 1, MIN(size - 1, (size_t)8192));
	else if (size > 1)
		fuzz_table(data + 1, size - 1);
	return 0;
}
