/* virtqueue.c - see virtqueue.h. */
#include "runner/devices/virtqueue.h"

#include <linux/virtio_ring.h>
#include <string.h>

#include "smfs/base/num.h"

/* Of the avail ring: flags, idx, ring[size], used_event. Of the used ring: flags, idx, ring[size]
 * of {id, len}, avail_event. Both are arrays of u16 here, since that is how they are aligned. */
#define AVAIL_IDX	    1
#define AVAIL_RING(i)	    (2 + (i))
#define AVAIL_USED_EVENT(n) (2 + (n))
#define USED_IDX	    1
#define USED_RING(i)	    (2 + 4 * (i))
#define USED_AVAIL_EVENT(n) (2 + 4 * (n))

/*
 * Sequentially consistent, since both sides store their own index and then load the other's wish:
 * were the two reordered, either could miss the other.
 */
static uint16_t load16(const uint16_t *p)
{
	return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}

static void store16(uint16_t *p, uint16_t v)
{
	__atomic_store_n(p, v, __ATOMIC_SEQ_CST);
}

void virtqueue_init(struct virtqueue *q, const struct memory *mem, uint16_t max_size,
		    uint32_t max_bytes)
{
	*q = (struct virtqueue){.mem = mem, .max_size = max_size, .max_bytes = max_bytes};
}

void virtqueue_reset(struct virtqueue *q)
{
	virtqueue_init(q, q->mem, q->max_size, q->max_bytes);
}

static int fault(struct virtqueue *q, const char *why)
{
	q->fault = why;
	q->ready = false;
	return -EBADMSG;
}

int virtqueue_enable(struct virtqueue *q)
{
	if (q->size == 0 || q->size > q->max_size || (q->size & (q->size - 1)))
		return fault(q, "queue size is not a power of two within the maximum");
	if (q->desc_gpa % 16 || q->avail_gpa % 2 || q->used_gpa % 4)
		return fault(q, "a ring is misaligned");
	q->desc = memory_at(q->mem, q->desc_gpa, sizeof(struct vring_desc) * (uint64_t)q->size);
	q->avail = memory_at(q->mem, q->avail_gpa, 2 * (AVAIL_USED_EVENT(q->size) + 1ull));
	q->used = memory_at(q->mem, q->used_gpa, 2 * (USED_AVAIL_EVENT(q->size) + 1ull));
	if (!q->desc || !q->avail || !q->used)
		return fault(q, "a ring is outside RAM");
	q->fault = NULL;
	q->ready = true;
	return 0;
}

uint16_t virtqueue_avail_idx(const struct virtqueue *q)
{
	return load16(&q->avail[AVAIL_IDX]);
}

void virtqueue_ask_kick(struct virtqueue *q, uint16_t at)
{
	if (q->event_idx)
		store16(&q->used[USED_AVAIL_EVENT(q->size)], at);
}

/*
 * How many chains wait. When none do, ask for a kick and look again: the driver may have added one
 * before it saw us ask.
 */
static uint16_t waiting(struct virtqueue *q)
{
	uint16_t n = virtqueue_avail_idx(q) - q->next_avail;

	if (n || !q->event_idx)
		return n;
	virtqueue_ask_kick(q, q->next_avail);
	return virtqueue_avail_idx(q) - q->next_avail;
}

/* One descriptor, read once. The compiler may not read the shared one again behind the copy. */
static struct vring_desc read_desc(const struct virtqueue *q, uint16_t i)
{
	const volatile struct vring_desc *d = (const volatile struct vring_desc *)q->desc + i;

	return (struct vring_desc){
		.addr = d->addr, .len = d->len, .flags = d->flags, .next = d->next};
}

static int collect(struct virtqueue *q, struct virtqueue_chain *c)
{
	unsigned limit = MIN(q->size, VIRTQUEUE_MAX_SEGS), n = 0;
	uint64_t bytes = 0;
	uint16_t at = c->head;

	c->nout = c->nin = 0;
	c->out_bytes = c->in_bytes = 0;
	for (;;) {
		struct vring_desc d;
		void *p;

		if (at >= q->size)
			return fault(q, "descriptor number beyond the table");
		if (n == limit)
			return fault(q, "descriptor chain loops or is too long");
		d = read_desc(q, at);
		if (d.flags & ~(VRING_DESC_F_NEXT | VRING_DESC_F_WRITE))
			return fault(q, "descriptor flags not negotiated");
		if (d.len == 0)
			return fault(q, "empty descriptor");
		bytes += d.len;
		if (bytes > q->max_bytes)
			return fault(q, "descriptor chain holds too many bytes");
		p = memory_at(q->mem, d.addr, d.len);
		if (!p)
			return fault(q, "descriptor points outside RAM");
		if (d.flags & VRING_DESC_F_WRITE) {
			c->nin++;
			c->in_bytes += d.len;
		} else if (c->nin) {
			return fault(q, "readable descriptor after a writable one");
		} else {
			c->nout++;
			c->out_bytes += d.len;
		}
		c->seg[n++] = (struct iovec){.iov_base = p, .iov_len = d.len};
		if (!(d.flags & VRING_DESC_F_NEXT))
			break;
		at = d.next;
	}
	c->out = c->seg;
	c->in = c->seg + c->nout;
	return 1;
}

int virtqueue_pop(struct virtqueue *q, struct virtqueue_chain *c)
{
	uint16_t n;
	int ret;

	if (!q->ready)
		return 0;
	n = waiting(q);
	if (n == 0)
		return 0;
	if (n > q->size)
		return fault(q, "avail index jumped");
	c->head = load16(&q->avail[AVAIL_RING(q->next_avail & (q->size - 1))]);
	ret = collect(q, c);
	if (ret == 1)
		q->next_avail++;
	return ret;
}

void virtqueue_rewind(struct virtqueue *q)
{
	q->next_avail--;
}

void virtqueue_push_head(struct virtqueue *q, uint16_t head, uint32_t written)
{
	uint32_t entry[2] = {head, written};

	if (!q->ready)
		return;
	memcpy(&q->used[USED_RING(q->next_used & (q->size - 1))], entry, sizeof(entry));
	q->next_used++;
	store16(&q->used[USED_IDX], q->next_used);
}

void virtqueue_push(struct virtqueue *q, const struct virtqueue_chain *c, uint32_t written)
{
	virtqueue_push_head(q, c->head, MIN(written, c->in_bytes));
}

unsigned virtqueue_untold(const struct virtqueue *q)
{
	return (uint16_t)(q->next_used - q->signalled);
}

bool virtqueue_wants_irq(struct virtqueue *q)
{
	uint16_t old = q->signalled, now = q->next_used, event;

	if (!q->ready || old == now)
		return false;
	q->signalled = now;
	if (!q->event_idx)
		return !(load16(&q->avail[0]) & VRING_AVAIL_F_NO_INTERRUPT);
	event = load16(&q->avail[AVAIL_USED_EVENT(q->size)]);
	return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

size_t iov_to_buf(const struct iovec *v, unsigned n, size_t off, void *buf, size_t len)
{
	size_t done = 0;

	for (; n && done < len; v++, n--) {
		size_t k;

		if (off >= v->iov_len) {
			off -= v->iov_len;
			continue;
		}
		k = MIN(v->iov_len - off, len - done);
		memcpy((uint8_t *)buf + done, (const uint8_t *)v->iov_base + off, k);
		done += k;
		off = 0;
	}
	return done;
}

size_t iov_from_buf(const struct iovec *v, unsigned n, size_t off, const void *buf, size_t len)
{
	size_t done = 0;

	for (; n && done < len; v++, n--) {
		size_t k;

		if (off >= v->iov_len) {
			off -= v->iov_len;
			continue;
		}
		k = MIN(v->iov_len - off, len - done);
		memcpy((uint8_t *)v->iov_base + off, (const uint8_t *)buf + done, k);
		done += k;
		off = 0;
	}
	return done;
}

unsigned iov_skip(struct iovec **v, unsigned n, size_t off)
{
	for (; n && off >= (*v)->iov_len; (*v)++, n--)
		off -= (*v)->iov_len;
	if (n && off) {
		(*v)->iov_base = (uint8_t *)(*v)->iov_base + off;
		(*v)->iov_len -= off;
	}
	return n;
}

unsigned iov_cut(struct iovec *v, unsigned n, size_t len)
{
	unsigned kept = 0;

	for (; kept < n && len; kept++) {
		v[kept].iov_len = MIN(v[kept].iov_len, len);
		len -= v[kept].iov_len;
	}
	return kept;
}

void virtqueue_save(const struct virtqueue *q, struct writer *w)
{
	put_u16(w, q->size);
	put_u8(w, q->ready);
	put_u64(w, q->desc_gpa);
	put_u64(w, q->avail_gpa);
	put_u64(w, q->used_gpa);
	put_u16(w, q->next_avail);
	put_u16(w, q->next_used);
}

int virtqueue_load(struct virtqueue *q, struct reader *r, bool broken, const char *what,
		   struct err *err)
{
	uint8_t ready;

	q->size = get_u16(r);
	ready = get_u8(r);
	q->desc_gpa = get_u64(r);
	q->avail_gpa = get_u64(r);
	q->used_gpa = get_u64(r);
	q->next_avail = get_u16(r);
	q->next_used = get_u16(r);
	q->signalled = q->next_used; /* whoever resumes the device interrupts anyway */
	q->ready = false;
	if (!reader_ok(r) || ready > 1)
		return err_set(err, EBADMSG, "%s: saved queue is cut short or malformed", what);
	if (!broken && q->next_avail != q->next_used)
		return err_set(err, EBADMSG, "%s: saved queue has requests in flight", what);
	if (ready && virtqueue_enable(q) < 0)
		return err_set(err, EBADMSG, "%s: saved queue is refused: %s", what, q->fault);
	return 0;
}
