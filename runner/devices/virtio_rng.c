/* virtio_rng.c - see virtio_rng.h. */
#include "runner/devices/virtio_rng.h"

#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "runner/devices/virtio_mmio.h"

struct rng {
	struct virtio_device v;
	int timer; /* armed while a period runs */
	struct loop_watch *watch;
	uint32_t left; /* of the period's budget */
	bool armed;
};

static struct rng *rng_of(struct virtio_device *v)
{
	return container_of(v, struct rng, v);
}

static void start_period(struct rng *r)
{
	struct itimerspec t = {.it_value.tv_nsec = VIRTIO_RNG_PERIOD_MS * 1000000l};

	if (r->armed)
		return;
	r->left = VIRTIO_RNG_BUDGET;
	r->armed = timerfd_settime(r->timer, 0, &t, NULL) == 0;
}

/* getrandom() of the kernel's pool neither blocks nor fails once the host has booted. */
static uint32_t fill(const struct virtqueue_chain *c, uint32_t max)
{
	uint8_t buf[4096];
	uint32_t done = 0, want = MIN(c->in_bytes, max);

	while (done < want) {
		ssize_t n = getrandom(buf, MIN(sizeof(buf), want - done), GRND_NONBLOCK);

		if (n <= 0)
			break;
		iov_from_buf(c->in, c->nin, done, buf, (size_t)n);
		done += (uint32_t)n;
	}
	explicit_bzero(buf, sizeof(buf));
	return done;
}

static void rng_notify(struct virtio_device *v, unsigned qn)
{
	struct rng *r = rng_of(v);
	struct virtqueue *q = &v->queue[qn];
	struct virtqueue_chain c;
	int ret = 0;

	start_period(r);
	while (r->left && (ret = virtqueue_pop(q, &c)) > 0) {
		uint32_t n;

		if (!c.in_bytes || c.out_bytes) {
			virtio_break(v, "request for random bytes without room for them");
			return;
		}
		n = fill(&c, MIN(r->left, VIRTIO_RNG_REQUEST));
		r->left -= n;
		virtqueue_push(q, &c, n);
	}
	if (ret < 0)
		virtio_break(v, q->fault);
	else
		virtio_used(v, qn);
}

static void period_over(void *arg, uint32_t events)
{
	struct rng *r = arg;
	uint64_t expired;

	(void)!read(r->timer, &expired, sizeof(expired));
	r->armed = false;
	if (r->left < VIRTIO_RNG_BUDGET)
		virtio_kick(&r->v, 0);
	r->left = VIRTIO_RNG_BUDGET;
}

static void rng_free(struct virtio_device *v)
{
	struct rng *r = rng_of(v);

	if (r->watch)
		loop_unwatch(v->dev.vm->loop, r->watch);
	if (r->timer >= 0)
		close(r->timer);
	free(r);
}

static const struct device_ops device_ops = {
	VIRTIO_DEVICE_OPS,
	.type = "virtio-rng",
	.version = 1,
};

static const struct virtio_ops rng_ops = {
	.device_id = VIRTIO_ID_RNG,
	.nqueues = 1,
	.queue_size = 64,
	.chain_max = 1u << 20,
	.notify = rng_notify,
	.free = rng_free,
};

int virtio_rng_new(struct vm *vm, const char *id, struct err *err)
{
	struct rng *r = calloc(1, sizeof(*r));
	int ret;

	if (!r)
		return err_set(err, ENOMEM, "%s: out of memory", id);
	r->timer = -1;
	ret = virtio_device_init(&r->v, vm, id, &device_ops, &rng_ops, err);
	if (ret < 0) {
		free(r);
		return ret;
	}
	r->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (r->timer < 0)
		ret = err_errno(err, "%s: create a timer", id);
	else
		ret = loop_watch(vm->loop, r->timer, EPOLLIN, period_over, r, &r->watch, err);
	if (ret < 0) {
		virtio_mmio_free(&r->v.dev);
		return ret;
	}
	return virtio_device_add(&r->v, err);
}
