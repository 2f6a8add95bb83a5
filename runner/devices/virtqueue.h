/*
 * virtqueue.h - the device's side of a split virtqueue (virtio 1.2, section 2.7).
 *
 *     while ((r = virtqueue_pop(q, &chain)) > 0) {
 *             ... chain.in / chain.out ...
 *             virtqueue_push(q, &chain, bytes written);
 *     }
 *     if (r < 0)
 *             break the device;
 *     if (virtqueue_wants_irq(q))
 *             interrupt;
 *
 * THE GUEST IS HOSTILE. Ring addresses are resolved by memory_at() once, when the queue becomes
 * ready. Each ring index and each descriptor is read exactly once, into a local copy, and checked
 * there. A chain has at most VIRTQUEUE_MAX_SEGS segments (which also ends loops), none of them
 * empty, all within RAM, at most `max_bytes` in all, and the readable ones first. Anything else is
 * -EBADMSG, with the reason in q->fault; the ring is then not used again until it is set up anew.
 *
 * What the segments point to may still change at any time: a device copies a header out before
 * it looks at it.
 *
 * Indirect descriptors are not offered: they double the ways a chain can be wrong, and a ring of
 * 256 holds what our devices have in flight. EVENT_IDX is: each suppressed kick or
 * interrupt is an exit saved.
 *
 * ORDER. Chains may be pushed in any order, but each popped chain is pushed (or rewound) before
 * the device is saved: a saved queue has next_avail == next_used.
 *
 * Threads: the device lock is held.
 */
#ifndef RUNNER_DEVICES_VIRTQUEUE_H
#define RUNNER_DEVICES_VIRTQUEUE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "runner/vm/memory.h"
#include "smfs/base/bytes.h"
#include "smfs/base/err.h"

#define VIRTQUEUE_MAX_SIZE 256
#define VIRTQUEUE_MAX_SEGS 256

struct virtqueue {
	/* Fixed by the device. */
	const struct memory *mem;
	uint16_t max_size;
	uint32_t max_bytes; /* of one chain */

	/* Set by the driver. */
	uint16_t size;
	bool ready;
	uint64_t desc_gpa, avail_gpa, used_gpa;
	bool event_idx; /* negotiated */

	/* Positions: free-running, as in the rings. */
	uint16_t next_avail, next_used;
	uint16_t signalled; /* next_used when virtqueue_wants_irq() last looked */

	/* While ready: the resolved rings. */
	const void *desc;
	uint16_t *avail, *used;
	const char *fault;
};

/* The segments of one request: `out` are for the device to read, `in` to write. */
struct virtqueue_chain {
	uint16_t head;
	unsigned nout, nin;
	uint32_t out_bytes, in_bytes;
	struct iovec *out, *in; /* into seg[] */
	struct iovec seg[VIRTQUEUE_MAX_SEGS];
};

void virtqueue_init(struct virtqueue *q, const struct memory *mem, uint16_t max_size,
		    uint32_t max_bytes);
/* Forget what the driver set. */
void virtqueue_reset(struct virtqueue *q);
/* Check size and addresses and resolve the rings. -EBADMSG: q->fault says why. */
int virtqueue_enable(struct virtqueue *q);

/* The next chain: 1, 0 = none (the driver is asked to kick for the next), -EBADMSG. */
int virtqueue_pop(struct virtqueue *q, struct virtqueue_chain *c);
/* Undo the latest virtqueue_pop(), before any other call on `q`. */
void virtqueue_rewind(struct virtqueue *q);
/* Give a chain back, `written` of its in-bytes filled. */
void virtqueue_push(struct virtqueue *q, const struct virtqueue_chain *c, uint32_t written);
void virtqueue_push_head(struct virtqueue *q, uint16_t head, uint32_t written);
/* How many were pushed since the last call of virtqueue_wants_irq(). */
unsigned virtqueue_untold(const struct virtqueue *q);
/* Whether what was pushed since the last call asks for an interrupt. */
bool virtqueue_wants_irq(struct virtqueue *q);
/* The driver's avail index now. Any value may come. */
uint16_t virtqueue_avail_idx(const struct virtqueue *q);
/* Have the driver kick when it moves its avail index beyond `at`. */
void virtqueue_ask_kick(struct virtqueue *q, uint16_t at);

/* Bytes [off, ...) of the segments; the count copied. */
size_t iov_to_buf(const struct iovec *v, unsigned n, size_t off, void *buf, size_t len);
size_t iov_from_buf(const struct iovec *v, unsigned n, size_t off, const void *buf, size_t len);
/* Drop the first `off` bytes of the segments in place; the new array starts at *v. */
unsigned iov_skip(struct iovec **v, unsigned n, size_t off);
/* Cut the segments to at most `len` bytes in all; the new count. */
unsigned iov_cut(struct iovec *v, unsigned n, size_t len);

void virtqueue_save(const struct virtqueue *q, struct writer *w);
/* `broken`: the device was, so that chains may be missing. Checks all, and resolves a ready queue.
 */
int virtqueue_load(struct virtqueue *q, struct reader *r, bool broken, const char *what,
		   struct err *err);

#endif
