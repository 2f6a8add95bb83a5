/*
 * A guest that writes whatever it likes into its rings, between any two steps of the device.
 *
 * Input: the queue's set-up, then commands: write bytes into the first 64 KiB of RAM, pop, push,
 * rewind, look at interrupts. What must hold: a chain lies within RAM and its limits.
 */
#include <stdlib.h>
#include <string.h>

#include "runner/devices/virtqueue.h"
#include "smfs/base/bytes.h"
#include "smfs/base/num.h"

#define RAM	  (2 * MIB)
#define CHAIN_MAX 65536u
#define HELD_MAX  8

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct memory mem;

#define must(x)                  \
	do {                     \
		if (!(x))        \
			abort(); \
	} while (0)

static void check_chain(const struct virtqueue *q, const struct virtqueue_chain *c)
{
	const uint8_t *ram = mem.region[0].hva;
	uint64_t sum = 0;

	must(c->head < q->size && c->nout + c->nin >= 1 && c->nout + c->nin <= q->size);
	must(c->out == c->seg && c->in == c->seg + c->nout);
	for (unsigned i = 0; i < c->nout + c->nin; i++) {
		const uint8_t *p = c->seg[i].iov_base;

		must(p >= ram && c->seg[i].iov_len >= 1 && c->seg[i].iov_len <= RAM);
		must(p + c->seg[i].iov_len <= ram + RAM);
		sum += c->seg[i].iov_len;
	}
	must(sum == (uint64_t)c->out_bytes + c->in_bytes && sum <= CHAIN_MAX);
}

static void use_chain(struct virtqueue_chain *c, uint64_t v)
{
	uint8_t buf[300];
	size_t off = v % 97, len = v / 97 % sizeof(buf);
	struct iovec *at = c->in;
	unsigned n;

	must(iov_to_buf(c->out, c->nout, off, buf, len) <= len);
	memset(buf, (int)v, sizeof(buf));
	must(iov_from_buf(c->in, c->nin, off, buf, len) <= len);
	n = iov_skip(&at, c->nin, off);
	iov_cut(at, n, len);
}

static void commands(struct virtqueue *q, struct reader *r)
{
	static struct virtqueue_chain held[HELD_MAX];
	unsigned nheld = 0;
	bool popped = false; /* last of all, so that it may be rewound */

	while (reader_ok(r) && r->left) {
		uint8_t op = get_u8(r);
		uint16_t at = get_u16(r);
		size_t n;
		const void *p;

		switch (op % 5) {
		case 0:
			p = get_blob16(r, 4096, &n);
			if (p && at + n <= 65536)
				memcpy(mem.region[0].hva + at, p, n);
			break;
		case 1:
			if (nheld == HELD_MAX)
				break;
			popped = virtqueue_pop(q, &held[nheld]) == 1;
			if (popped)
				check_chain(q, &held[nheld++]);
			continue;
		case 2:
			if (popped && q->ready) {
				virtqueue_rewind(q);
				nheld--;
			}
			break;
		case 3:
			if (nheld && q->ready) {
				use_chain(&held[--nheld], at);
				virtqueue_push_head(q, held[nheld].head, at);
			}
			break;
		default:
			virtqueue_wants_irq(q);
		}
		popped = false;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct reader r = reader_of(data, size);
	struct virtqueue q;

	if (!mem.n)
		must(memory_layout(&mem, RAM, NULL) == 0 && memory_map_anon(&mem, NULL) == 0);
	memset(mem.region[0].hva, 0, 65536);
	virtqueue_init(&q, &mem, VIRTQUEUE_MAX_SIZE, CHAIN_MAX);
	if (get_u8(&r) & 1) { /* a plausible set-up, or the fuzzer would seldom get past it */
		q.size = 1u << get_u8(&r) % 9;
		q.desc_gpa = 0x1000;
		q.avail_gpa = 0x3000;
		q.used_gpa = 0x4000;
		q.event_idx = get_u8(&r) & 1;
		must(virtqueue_enable(&q) == 0);
	} else if (virtqueue_load(&q, &r, true, "q", NULL) < 0) {
		return 0;
	}
	commands(&q, &r);
	return 0;
}
