/* virtio_blk.c - see virtio_blk.h. */
#include "runner/devices/virtio_blk.h"

#include <endian.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "runner/devices/virtio_mmio.h"
#include "smfs/base/log.h"
#include "smfs/base/workers.h"

#define SECTOR	   DISK_SECTOR
#define QUEUE_SIZE 128u
/* Of a request: its header, up to SEG_MAX pieces of data, the status byte. */
#define SEG_MAX (QUEUE_SIZE - 2)

struct blk;

/* A request on its way. The worker owns it from submission until it is on the done list. */
struct request {
	struct blk *b;
	struct request *next;
	uint64_t life; /* b->life when it began; another by now: the driver has reset */
	struct virtqueue_chain chain;
	uint32_t type, len;
	uint64_t off;
	int result;
	uint8_t data[];
};

struct blk {
	struct virtio_device v;
	struct virtio_blk_config config;
	struct disk *disk;
	struct workers *worker; /* NULL until the first request */
	uint64_t life;
	unsigned nflying;  /* requests with the worker or on the done list … */
	uint32_t inflight; /* … and their bytes, overhead counted */
	bool held;	   /* requests wait in the ring for inflight to go down */

	pthread_mutex_t lock; /* for `done` alone */
	struct request *done, **done_tail;
	int done_fd;
	struct loop_watch *done_watch;
};

static struct blk *blk_of(struct virtio_device *v)
{
	return container_of(v, struct blk, v);
}

static uint32_t cost(const struct request *r)
{
	return (uint32_t)sizeof(*r) + r->len;
}

/* ---- worker --------------------------------------------------------------------------------- */

static void run(void *arg)
{
	struct request *r = arg;
	struct blk *b = r->b;

	if (r->type == VIRTIO_BLK_T_IN)
		r->result = disk_read(b->disk, r->data, r->len, r->off);
	else if (r->type == VIRTIO_BLK_T_OUT)
		r->result = disk_write(b->disk, r->data, r->len, r->off);
	else
		r->result = disk_flush(b->disk);
	pthread_mutex_lock(&b->lock);
	*b->done_tail = r;
	b->done_tail = &r->next;
	pthread_mutex_unlock(&b->lock);
	(void)!write(b->done_fd, &(uint64_t){1}, sizeof(uint64_t));
}

/* ---- requests ------------------------------------------------------------------------------- */

/* The status byte is the last of the writable ones; `written` counts it. */
static void answer(struct blk *b, const struct virtqueue_chain *c, uint8_t status, uint32_t written)
{
	iov_from_buf(c->in, c->nin, c->in_bytes - 1, &status, 1);
	virtqueue_push(&b->v.queue[0], c, written + 1);
}

static void finish(struct request *r)
{
	struct blk *b = r->b;
	uint32_t written = 0;

	b->nflying--;
	b->inflight -= cost(r);
	if (r->life == b->life && b->v.queue[0].ready) {
		if (r->type == VIRTIO_BLK_T_IN && r->result == 0)
			written = (uint32_t)iov_from_buf(r->chain.in, r->chain.nin, 0, r->data,
							 r->len);
		answer(b, &r->chain, r->result < 0 ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK, written);
	}
	free(r);
}

/* Answer what the worker is done with. */
static void reap(struct blk *b)
{
	struct request *r, *next;

	pthread_mutex_lock(&b->lock);
	r = b->done;
	b->done = NULL;
	b->done_tail = &b->done;
	pthread_mutex_unlock(&b->lock);
	for (; r; r = next) {
		next = r->next;
		finish(r);
	}
	virtio_used(&b->v, 0);
}

static bool valid_range(const struct blk *b, uint64_t sector, uint32_t len)
{
	return len && len % SECTOR == 0 && len <= VIRTIO_BLK_REQUEST &&
	       range_ok(sector, len / SECTOR, le64toh(b->config.capacity));
}

static void get_id(struct blk *b, const struct virtqueue_chain *c)
{
	char id[VIRTIO_BLK_ID_BYTES] = {0};

	memcpy(id, b->v.dev.id, MIN(strlen(b->v.dev.id), sizeof(id)));
	answer(b, c, VIRTIO_BLK_S_OK,
	       (uint32_t)iov_from_buf(c->in, c->nin, 0, id, MIN(sizeof(id), c->in_bytes - 1)));
}

/*
 * A thread keeps the privileges its maker had: made on the first request, on the I/O thread, it has
 * none. Deep enough that handing over a request never blocks.
 */
static bool worker_up(struct blk *b)
{
	struct err err = ERR_INIT;

	if (b->worker || workers_new(&b->worker, 1, QUEUE_SIZE, &err) == 0)
		return true;
	log_warn("%s: %s", b->v.dev.id, err.msg);
	return false;
}

static void submit(struct blk *b, const struct virtqueue_chain *c, uint32_t type, uint64_t sector,
		   uint32_t len)
{
	struct request *r = worker_up(b) ? malloc(sizeof(*r) + len) : NULL;

	if (!r) {
		answer(b, c, VIRTIO_BLK_S_IOERR, 0);
		return;
	}
	*r = (struct request){
		.b = b, .life = b->life, .type = type, .len = len, .off = sector * SECTOR};
	r->chain = *c;
	r->chain.out = r->chain.seg;
	r->chain.in = r->chain.seg + c->nout;
	if (type == VIRTIO_BLK_T_OUT)
		iov_to_buf(c->out, c->nout, sizeof(struct virtio_blk_outhdr), r->data, len);
	b->nflying++;
	b->inflight += cost(r);
	workers_submit(b->worker, run, r);
}

/* One request. false: it is none. */
static bool take(struct blk *b, const struct virtqueue_chain *c)
{
	bool readonly = b->v.offered & VIRTIO_BIT(VIRTIO_BLK_F_RO);
	struct virtio_blk_outhdr h;
	uint32_t type, len;
	uint64_t sector;

	if (iov_to_buf(c->out, c->nout, 0, &h, sizeof(h)) < sizeof(h) || !c->in_bytes)
		return false;
	type = le32toh(h.type);
	sector = le64toh(h.sector);
	len = type == VIRTIO_BLK_T_OUT ? c->out_bytes - (uint32_t)sizeof(h) : c->in_bytes - 1;
	switch (type) {
	case VIRTIO_BLK_T_GET_ID:
		get_id(b, c);
		break;
	case VIRTIO_BLK_T_FLUSH:
		submit(b, c, type, 0, 0);
		break;
	case VIRTIO_BLK_T_IN:
	case VIRTIO_BLK_T_OUT:
		if (!valid_range(b, sector, len) || (type == VIRTIO_BLK_T_OUT && readonly))
			answer(b, c, VIRTIO_BLK_S_IOERR, 0);
		else
			submit(b, c, type, sector, len);
		break;
	default:
		answer(b, c, VIRTIO_BLK_S_UNSUPP, 0);
	}
	return true;
}

/* What was under way when a driver reset the device counts still. */
static bool full(const struct blk *b)
{
	return b->nflying == QUEUE_SIZE || b->inflight >= VIRTIO_BLK_INFLIGHT;
}

static void blk_notify(struct virtio_device *v, unsigned qn)
{
	struct blk *b = blk_of(v);
	struct virtqueue *q = &v->queue[qn];
	struct virtqueue_chain c;
	unsigned budget = q->size;
	int ret = 0;

	while (!(b->held = full(b)) && (ret = virtqueue_pop(q, &c)) > 0) {
		if (!take(b, &c)) {
			virtio_break(v, "disk request without header or status");
			return;
		}
		if (!--budget) {
			virtio_kick(v, qn);
			break;
		}
	}
	if (ret < 0)
		virtio_break(v, q->fault);
	else
		virtio_used(v, qn);
}

static void on_done(void *arg, uint32_t events)
{
	struct blk *b = arg;
	uint64_t count;

	(void)!read(b->done_fd, &count, sizeof(count));
	reap(b);
	if (b->held)
		virtio_kick(&b->v, 0);
}

/* ---- state ---------------------------------------------------------------------------------- */

static void blk_reset(struct virtio_device *v)
{
	blk_of(v)->life++;
}

/* The worker needs no device lock, so it can be waited for under it. */
static int blk_quiesce(struct virtio_device *v, struct err *err)
{
	if (blk_of(v)->worker)
		workers_wait(blk_of(v)->worker);
	reap(blk_of(v));
	return 0;
}

static const void *blk_config(struct virtio_device *v, unsigned *len)
{
	*len = sizeof(struct virtio_blk_config);
	return &blk_of(v)->config;
}

static void blk_save(struct virtio_device *v, struct writer *w)
{
	put_u64(w, le64toh(blk_of(v)->config.capacity));
	put_u8(w, !!(v->offered & VIRTIO_BIT(VIRTIO_BLK_F_RO)));
}

static int blk_load(struct virtio_device *v, uint16_t version, struct reader *r, struct err *err)
{
	uint64_t sectors = get_u64(r), have = le64toh(blk_of(v)->config.capacity);
	bool readonly = v->offered & VIRTIO_BIT(VIRTIO_BLK_F_RO);
	uint8_t was_readonly = get_u8(r);

	if (!reader_ok(r) || was_readonly > 1)
		return err_set(err, EBADMSG, "%s: saved state is cut short or malformed",
			       v->dev.id);
	if (sectors != have || was_readonly != readonly)
		return err_set(
			err, EBADMSG,
			"%s: saved as a %s disk of %llu sectors, but here is a %s one of %llu",
			v->dev.id, was_readonly ? "read-only" : "writable",
			(unsigned long long)sectors, readonly ? "read-only" : "writable",
			(unsigned long long)have);
	return 0;
}

static void blk_free(struct virtio_device *v)
{
	struct blk *b = blk_of(v);

	if (b->worker)
		workers_free(b->worker);
	b->life++;
	if (b->done_watch)
		loop_unwatch(v->dev.vm->loop, b->done_watch);
	for (struct request *r = b->done, *next; r; r = next) {
		next = r->next;
		free(r);
	}
	if (b->done_fd >= 0)
		close(b->done_fd);
	disk_free(b->disk);
	pthread_mutex_destroy(&b->lock);
	free(b);
}

static const struct device_ops device_ops = {
	VIRTIO_DEVICE_OPS,
	.type = "virtio-blk",
	.version = 1,
};

static const struct virtio_ops blk_ops = {
	.device_id = VIRTIO_ID_BLOCK,
	.features = VIRTIO_BIT(VIRTIO_BLK_F_SEG_MAX) | VIRTIO_BIT(VIRTIO_BLK_F_SIZE_MAX) |
		    VIRTIO_BIT(VIRTIO_BLK_F_FLUSH) | VIRTIO_BIT(VIRTIO_BLK_F_BLK_SIZE),
	.nqueues = 1,
	.queue_size = QUEUE_SIZE,
	.chain_max = VIRTIO_BLK_REQUEST + 4096,
	.config = blk_config,
	.notify = blk_notify,
	.reset = blk_reset,
	.quiesce = blk_quiesce,
	.save = blk_save,
	.load = blk_load,
	.free = blk_free,
};

/* ---- constructor ---------------------------------------------------------------------------- */

static void describe(struct blk *b)
{
	/* A request is within VIRTIO_BLK_REQUEST even when each of its segments is full. */
	b->config.capacity = htole64(disk_bytes(b->disk) / SECTOR);
	b->config.size_max = htole32(align_down(VIRTIO_BLK_REQUEST / SEG_MAX, 4096));
	b->config.seg_max = htole32(SEG_MAX);
	b->config.blk_size = htole32(SECTOR);
	if (disk_readonly(b->disk))
		b->v.offered |= VIRTIO_BIT(VIRTIO_BLK_F_RO);
}

static int set_up(struct blk *b, struct err *err)
{
	describe(b);
	b->done_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (b->done_fd < 0)
		return err_errno(err, "%s: create an eventfd", b->v.dev.id);
	return loop_watch(b->v.dev.vm->loop, b->done_fd, EPOLLIN, on_done, b, &b->done_watch, err);
}

int virtio_blk_new(struct vm *vm, const char *id, struct disk *disk, struct err *err)
{
	struct blk *b = calloc(1, sizeof(*b));
	int ret;

	if (!b) {
		disk_free(disk);
		return err_set(err, ENOMEM, "%s: out of memory", id);
	}
	b->disk = disk;
	b->done_fd = -1;
	b->done_tail = &b->done;
	pthread_mutex_init(&b->lock, NULL);
	ret = virtio_device_init(&b->v, vm, id, &device_ops, &blk_ops, err);
	if (ret < 0) {
		disk_free(disk);
		pthread_mutex_destroy(&b->lock);
		free(b);
		return ret;
	}
	ret = set_up(b, err);
	if (ret < 0) {
		virtio_mmio_free(&b->v.dev);
		return ret;
	}
	return virtio_device_add(&b->v, err);
}

int virtio_blk_freeze(struct device *d, struct disk_view **out, struct err *err)
{
	return disk_freeze(blk_of((struct virtio_device *)d)->disk, d->id, out, err);
}

int virtio_blk_replace(struct device *d, struct disk *disk, struct err *err)
{
	struct blk *b = blk_of((struct virtio_device *)d);

	if (disk_bytes(disk) != disk_bytes(b->disk) ||
	    disk_readonly(disk) != disk_readonly(b->disk)) {
		disk_free(disk);
		return err_set(err, ENOTSUP, "%s: another disk of another size", d->id);
	}
	/* The worker has nothing to do, and learns of the new one with its next request. */
	disk_free(b->disk);
	b->disk = disk;
	b->held = false;
	return 0;
}
