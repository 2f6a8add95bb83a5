/*
 * virtio_vsock.c - the device: queues, packets in and out, TRANSPORT_RESET, state. See
 * virtio_vsock.h and virtio_vsock_conn.h.
 */
#include "runner/devices/virtio_vsock_conn.h"

#include <endian.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "smfs/base/log.h"

#define TAKEN_MS    100
#define TAKEN_SMALL 1024 /* bytes of payload */

enum { QUEUE_RX, QUEUE_TX, QUEUE_EVENT, QUEUES };

static struct vsock *vsock_of(struct virtio_device *v)
{
	return container_of(v, struct vsock, v);
}

/* Any thread: have on_work() run. */
static void call_work(struct vsock *s)
{
	(void)!write(s->work_fd, &(uint64_t){1}, sizeof(uint64_t));
}

static void broke(struct vsock *s, const char *why)
{
	virtio_break(&s->v, why);
	s->forget = true;
	call_work(s);
}

static void forget_all(struct vsock *s)
{
	struct vsock_conn *c;

	while ((c = LIST_FIRST(&s->all)))
		conn_free(c);
	s->nrst = 0;
	s->tx_held = false;
	s->event = EVENT_NONE;
	s->event_deadline = 0;
	s->forget = false;
}

/* ---- to the guest --------------------------------------------------------------------------- */

static void owe_rst(struct vsock *s, uint32_t host_port, uint32_t guest_port)
{
	s->rst[s->nrst++] = (struct vsock_rst){.host_port = host_port, .guest_port = guest_port};
}

static struct virtio_vsock_hdr rst_packet(struct vsock *s)
{
	struct vsock_rst r = s->rst[0];

	memmove(s->rst, s->rst + 1, --s->nrst * sizeof(s->rst[0]));
	return (struct virtio_vsock_hdr){
		.src_cid = htole64(VSOCK_HOST_CID),
		.dst_cid = s->config.guest_cid,
		.src_port = htole32(r.host_port),
		.dst_port = htole32(r.guest_port),
		.type = htole16(VIRTIO_VSOCK_TYPE_STREAM),
		.op = htole16(VIRTIO_VSOCK_OP_RST),
	};
}

/* The next packet there is into the buffer `c`: its length, 0 for none. */
static uint32_t next_packet(struct vsock *s, const struct virtqueue_chain *c)
{
	struct iovec room[VIRTQUEUE_MAX_SEGS], *data = room;
	struct virtio_vsock_hdr h;
	struct vsock_conn *conn;
	unsigned n;

	memcpy(room, c->in, c->nin * sizeof(*room));
	n = iov_skip(&data, c->nin, sizeof(h));
	if (s->nrst) {
		h = rst_packet(s);
	} else {
		do {
			conn = TAILQ_FIRST(&s->ready);
			if (!conn)
				return 0;
			TAILQ_REMOVE(&s->ready, conn, ready);
			conn->is_ready = false;
		} while (!conn_packet(conn, &h, data, n));
	}
	iov_from_buf(c->in, c->nin, 0, &h, sizeof(h));
	return (uint32_t)sizeof(h) + le32toh(h.len);
}

void vsock_pump(struct vsock *s)
{
	struct virtqueue *q = &s->v.queue[QUEUE_RX];
	struct virtqueue_chain c;
	unsigned budget = q->size;

	if (!virtio_live(&s->v) || s->forget)
		return;
	while (s->nrst || !TAILQ_EMPTY(&s->ready)) {
		int ret;
		uint32_t len;

		if (!budget--) {
			virtio_kick(&s->v, QUEUE_RX);
			break;
		}
		ret = virtqueue_pop(q, &c);
		if (ret == 0)
			break;
		if (ret < 0 || c.nout || c.in_bytes <= sizeof(struct virtio_vsock_hdr)) {
			broke(s, ret < 0 ? q->fault : "receive buffer too small or not writable");
			return;
		}
		len = next_packet(s, &c);
		if (len == 0) {
			virtqueue_rewind(q);
			break;
		}
		virtqueue_push(q, &c, len);
	}
	virtio_used(&s->v, QUEUE_RX);
	if (s->tx_held && s->nrst < VSOCK_MAX_RSTS) {
		s->tx_held = false;
		virtio_kick(&s->v, QUEUE_TX);
	}
}

/* ---- from the guest ------------------------------------------------------------------------- */

static void guest_connects(struct vsock *s, const struct virtio_vsock_hdr *h)
{
	uint32_t host_port = le32toh(h->dst_port), guest_port = le32toh(h->src_port);
	int fd = s->nconns < VSOCK_MAX_CONNS ? host_dial(s, host_port) : -EMFILE;
	struct vsock_conn *c = fd < 0 ? NULL : conn_new(s, fd, CONN_OPEN);

	if (!c) {
		if (fd >= 0)
			close(fd);
		owe_rst(s, host_port, guest_port);
		return;
	}
	conn_name(c, host_port, guest_port);
	c->peer_alloc = le32toh(h->buf_alloc);
	c->peer_forwarded = le32toh(h->fwd_cnt);
	conn_ready(c, TODO_RESPONSE);
}

static void packet(struct vsock *s, const struct virtio_vsock_hdr *h, struct iovec *data,
		   unsigned n, uint32_t len)
{
	uint32_t host_port = le32toh(h->dst_port), guest_port = le32toh(h->src_port);
	uint16_t op = le16toh(h->op);
	struct vsock_conn *c;

	if (h->src_cid != s->config.guest_cid || h->dst_cid != htole64(VSOCK_HOST_CID))
		return; /* a forged sender, or for no one */
	c = conn_find(s, host_port, guest_port);
	if (le16toh(h->type) != VIRTIO_VSOCK_TYPE_STREAM) {
		if (op != VIRTIO_VSOCK_OP_RST)
			owe_rst(s, host_port, guest_port);
	} else if (c) {
		conn_receive(c, h, data, n, len);
	} else if (op == VIRTIO_VSOCK_OP_REQUEST) {
		guest_connects(s, h);
	} else if (op != VIRTIO_VSOCK_OP_RST) {
		owe_rst(s, host_port, guest_port);
	}
}

/*
 * That a packet was taken is nothing a driver waits for, unless it has little room for more, or the
 * packet is one of those whose sender may be told that its memory is its own again. An interrupt
 * costs the guest two accesses to the device. So of small ones it learns with the next packet for
 * it, or when some have come together, or after a while.
 */
static void taken(struct vsock *s, bool small)
{
	const struct virtqueue *q = &s->v.queue[QUEUE_TX];
	const struct itimerspec t = {.it_value.tv_nsec = TAKEN_MS * 1000000L};

	if (!small || virtqueue_untold(q) >= q->size / 4)
		virtio_used(&s->v, QUEUE_TX);
	else if (virtqueue_untold(q) && !s->taken_armed)
		s->taken_armed = timerfd_settime(s->taken_fd, 0, &t, NULL) == 0;
}

static void on_taken(void *arg, uint32_t events)
{
	struct vsock *s = arg;
	uint64_t count;

	(void)!read(s->taken_fd, &count, sizeof(count));
	s->taken_armed = false;
	/* Else it is told when the device is resumed. */
	if (virtio_live(&s->v))
		virtio_used(&s->v, QUEUE_TX);
}

/* One packet owes at most one RST, so with room for one it can be taken. */
static void transmit(struct vsock *s)
{
	struct virtqueue *q = &s->v.queue[QUEUE_TX];
	struct virtqueue_chain c;
	unsigned budget = q->size;
	bool small = true;
	int ret = 0;

	while (!(s->tx_held = s->nrst == VSOCK_MAX_RSTS) && (ret = virtqueue_pop(q, &c)) > 0) {
		struct iovec *data = c.out;
		struct virtio_vsock_hdr h;
		uint32_t len;
		unsigned n;

		iov_to_buf(c.out, c.nout, 0, &h, sizeof(h));
		len = c.out_bytes < sizeof(h) ? 0 : le32toh(h.len);
		if (c.nin || c.out_bytes < sizeof(h) || len > c.out_bytes - sizeof(h)) {
			broke(s, "packet that is not as long as it says");
			return;
		}
		n = iov_skip(&data, c.nout, sizeof(h));
		packet(s, &h, data, iov_cut(data, n, len), len);
		virtqueue_push(q, &c, 0);
		small &= len <= TAKEN_SMALL;
		if (!--budget) {
			virtio_kick(&s->v, QUEUE_TX);
			break;
		}
	}
	if (ret < 0)
		broke(s, q->fault);
	else
		taken(s, small);
}

/* ---- TRANSPORT_RESET ------------------------------------------------------------------------ */

static void event_over(struct vsock *s)
{
	struct vsock_conn *c;

	s->event = EVENT_NONE;
	s->event_deadline = 0;
	LIST_FOREACH (c, &s->all, all) {
		if (c->state != CONN_GREETING)
			continue;
		vsock_deadline(s, &c->deadline, VSOCK_GREETING_SEC);
		conn_watch(c);
	}
}

/*
 * The driver gives the event's buffer back when it has dropped its connections: that is the moment
 * from which new ones are safe.
 */
static void event_step(struct vsock *s)
{
	static const struct virtio_vsock_event reset = {VIRTIO_VSOCK_EVENT_TRANSPORT_RESET};
	struct virtqueue *q = &s->v.queue[QUEUE_EVENT];
	struct virtqueue_chain c;
	int ret;

	if (s->event == EVENT_SENT && virtqueue_avail_idx(q) != s->event_at)
		event_over(s);
	if (s->event != EVENT_PENDING)
		return;
	ret = virtqueue_pop(q, &c);
	if (ret == 0)
		return;
	if (ret < 0 || c.nout || c.in_bytes < sizeof(reset)) {
		broke(s, ret < 0 ? q->fault : "event buffer too small or not writable");
		return;
	}
	s->event_at = virtqueue_avail_idx(q);
	virtqueue_ask_kick(q, s->event_at);
	s->event = EVENT_SENT;
	iov_from_buf(c.in, c.nin, 0, &reset, sizeof(reset));
	virtqueue_push(q, &c, sizeof(reset));
	virtio_used(&s->v, QUEUE_EVENT);
}

/* ---- I/O thread entry points ---------------------------------------------------------------- */

static void vsock_notify(struct virtio_device *v, unsigned q)
{
	struct vsock *s = vsock_of(v);

	if (s->forget)
		forget_all(s);
	if (q == QUEUE_TX)
		transmit(s);
	else if (q == QUEUE_EVENT)
		event_step(s);
	vsock_pump(s);
}

static void on_work(void *arg, uint32_t events)
{
	struct vsock *s = arg;
	struct vsock_conn *c;
	uint64_t count;

	(void)!read(s->work_fd, &count, sizeof(count));
	if (s->forget)
		forget_all(s);
	LIST_FOREACH (c, &s->all, all)
		conn_watch(c);
	host_watch(s);
	if (virtio_live(&s->v) && s->v.queue[QUEUE_EVENT].ready)
		event_step(s);
	vsock_pump(s);
}

static uint64_t now_sec(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec;
}

static void tick_each(struct vsock *s, time_t seconds)
{
	struct itimerspec t = {.it_value.tv_sec = seconds, .it_interval.tv_sec = seconds};

	timerfd_settime(s->timer_fd, 0, &t, NULL);
	s->ticking = seconds != 0;
}

void vsock_deadline(struct vsock *s, uint64_t *when, unsigned seconds)
{
	*when = now_sec() + seconds;
	if (!s->ticking)
		tick_each(s, 1);
}

static bool passed(uint64_t *when, uint64_t now)
{
	if (!*when || now < *when)
		return false;
	*when = 0;
	return true;
}

static bool any_deadline(const struct vsock *s)
{
	const struct vsock_conn *c;

	LIST_FOREACH (c, &s->all, all)
		if (c->deadline)
			return true;
	return s->event_deadline || s->listen_again;
}

static void expire(struct vsock_conn *c)
{
	/* No one to tell, or the guest has not made room to be told. */
	if (c->state == CONN_GREETING || (c->todo & TODO_RST))
		conn_free(c);
	else
		conn_abort(c);
}

static void on_tick(void *arg, uint32_t events)
{
	struct vsock *s = arg;
	struct vsock_conn *c, *next;
	uint64_t count, now = now_sec();

	(void)!read(s->timer_fd, &count, sizeof(count));
	if (s->v.quiet)
		return;
	for (c = LIST_FIRST(&s->all); c; c = next) {
		next = LIST_NEXT(c, all);
		if (passed(&c->deadline, now))
			expire(c);
	}
	if (passed(&s->event_deadline, now)) {
		log_warn("%s: the guest has not taken in the transport reset after %d s; going on",
			 s->v.dev.id, VSOCK_EVENT_SEC);
		event_over(s);
	}
	if (passed(&s->listen_again, now))
		host_watch(s);
	if (!any_deadline(s))
		tick_each(s, 0);
	vsock_pump(s);
}

/* ---- state ---------------------------------------------------------------------------------- */

static void vsock_reset(struct virtio_device *v)
{
	vsock_of(v)->forget = true;
	call_work(vsock_of(v));
}

static const void *vsock_config(struct virtio_device *v, unsigned *len)
{
	*len = sizeof(struct virtio_vsock_config);
	return &vsock_of(v)->config;
}

static void vsock_save(struct virtio_device *v, struct writer *w)
{
	put_u64(w, le64toh(vsock_of(v)->config.guest_cid));
}

static bool valid_cid(uint64_t cid)
{
	return cid > VSOCK_HOST_CID && cid < 0xffffffffull;
}

static int vsock_load(struct virtio_device *v, uint16_t version, struct reader *r, struct err *err)
{
	uint64_t cid = get_u64(r);

	if (!valid_cid(cid))
		return err_set(err, EBADMSG, "%s: saved guest CID %llu is out of range", v->dev.id,
			       (unsigned long long)cid);
	vsock_of(v)->config.guest_cid = htole64(cid);
	vsock_of(v)->loaded = true;
	return 0;
}

/* Time did not pass for the guest, so no deadline did. */
static void vsock_resume(struct virtio_device *v)
{
	struct vsock *s = vsock_of(v);
	struct vsock_conn *c;

	/* What a saved device had not told yet the event is going to: an interrupt is for all
	 * queues. */
	if (virtio_live(v))
		virtio_used(v, QUEUE_TX);
	if (s->loaded && virtio_live(v))
		s->event = EVENT_PENDING;
	s->loaded = false;
	if (s->event != EVENT_NONE)
		vsock_deadline(s, &s->event_deadline, VSOCK_EVENT_SEC);
	LIST_FOREACH (c, &s->all, all)
		if (c->deadline)
			vsock_deadline(s, &c->deadline, VSOCK_GREETING_SEC);
	call_work(s);
}

static void vsock_free(struct virtio_device *v)
{
	struct vsock *s = vsock_of(v);
	struct loop *l = v->dev.vm->loop;

	host_close(s); /* first: nothing then makes the listener watched again */
	forget_all(s);
	if (s->work_watch)
		loop_unwatch(l, s->work_watch);
	if (s->timer_watch)
		loop_unwatch(l, s->timer_watch);
	if (s->taken_watch)
		loop_unwatch(l, s->taken_watch);
	if (s->work_fd >= 0)
		close(s->work_fd);
	if (s->timer_fd >= 0)
		close(s->timer_fd);
	if (s->taken_fd >= 0)
		close(s->taken_fd);
	free(s);
}

static const struct device_ops device_ops = {
	VIRTIO_DEVICE_OPS,
	.type = "virtio-vsock",
	.version = 1,
};

static const struct virtio_ops vsock_ops = {
	.device_id = VIRTIO_ID_VSOCK,
	.nqueues = QUEUES,
	.queue_size = 256,
	.chain_max = 1u << 20,
	.config = vsock_config,
	.notify = vsock_notify,
	.reset = vsock_reset,
	.save = vsock_save,
	.load = vsock_load,
	.resume = vsock_resume,
	.free = vsock_free,
};

static int set_up(struct vsock *s, const char *uds_path, struct err *err)
{
	struct loop *l = s->v.dev.vm->loop;
	int ret;

	s->work_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	s->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	s->taken_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (s->work_fd < 0 || s->timer_fd < 0 || s->taken_fd < 0)
		return err_errno(err, "%s: create an event or timer descriptor", s->v.dev.id);
	ret = loop_watch(l, s->work_fd, EPOLLIN, on_work, s, &s->work_watch, err);
	if (ret == 0)
		ret = loop_watch(l, s->timer_fd, EPOLLIN, on_tick, s, &s->timer_watch, err);
	if (ret == 0)
		ret = loop_watch(l, s->taken_fd, EPOLLIN, on_taken, s, &s->taken_watch, err);
	return ret < 0 ? ret : host_listen(s, uds_path, err);
}

int virtio_vsock_new(struct vm *vm, const char *id, uint64_t guest_cid, const char *uds_path,
		     struct err *err)
{
	struct vsock *s;
	int ret;

	if (!valid_cid(guest_cid))
		return err_set(err, EINVAL, "%s: guest CID %llu: must be 3 to 4294967294", id,
			       (unsigned long long)guest_cid);
	s = calloc(1, sizeof(*s));
	if (!s)
		return err_set(err, ENOMEM, "%s: out of memory", id);
	s->listen_fd = s->work_fd = s->timer_fd = s->taken_fd = -1;
	s->config.guest_cid = htole64(guest_cid);
	s->early_port = VSOCK_PORT_ANY;
	LIST_INIT(&s->all);
	TAILQ_INIT(&s->ready);
	ret = virtio_device_init(&s->v, vm, id, &device_ops, &vsock_ops, err);
	if (ret < 0) {
		free(s);
		return ret;
	}
	ret = set_up(s, uds_path, err);
	if (ret < 0) {
		virtio_mmio_free(&s->v.dev);
		return ret;
	}
	return virtio_device_add(&s->v, err);
}

void virtio_vsock_early(struct device *d, uint32_t port)
{
	((struct vsock *)d)->early_port = port;
}

/* ---- becoming another machine's -------------------------------------------------------------- */

void virtio_vsock_drop(struct device *d)
{
	struct vsock *s = (struct vsock *)d;

	host_close(s);
	forget_all(s);
}

int virtio_vsock_reopen(struct device *d, struct err *err)
{
	struct vsock *s = (struct vsock *)d;
	char path[VSOCK_PATH_MAX];

	memcpy(path, s->path, sizeof(path));
	return host_listen(s, path, err);
}

bool virtio_vsock_busy(const struct device *d)
{
	const struct vsock *s = (const struct vsock *)d;
	const struct vsock_conn *c;

	LIST_FOREACH (c, &s->all, all)
		if (c->state == CONN_REQUESTED ||
		    (c->state == CONN_OPEN && (c->buf_len || c->is_ready || c->readable)))
			return true;
	return false;
}
