/* virtio_mmio.c - registers, negotiation and status of the transport. See virtio_mmio.h. */
#include "runner/devices/virtio_mmio.h"

#include <linux/kvm.h>
#include <linux/virtio_mmio.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "runner/x86/aml.h"
#include "smfs/base/log.h"

#define MAGIC	  0x74726976 /* "virt" */
#define VERSION	  2
#define VENDOR_ID 0x534d564d /* "MVMS" in memory order */

/* A guest can break and reset a device in a loop; the log is not its to fill. */
#define BREAKS_LOGGED 8

#define STATUS_STEPS                                                                        \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK | \
	 VIRTIO_CONFIG_S_FEATURES_OK)

static struct virtio_device *virtio_of(struct device *d)
{
	return container_of(d, struct virtio_device, dev);
}

bool virtio_live(const struct virtio_device *v)
{
	return !v->quiet && (v->status & VIRTIO_CONFIG_S_DRIVER_OK) &&
	       !(v->status & (VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED));
}

bool virtio_has(const struct virtio_device *v, unsigned feature)
{
	return v->driver_features & VIRTIO_BIT(feature);
}

void virtio_kick(struct virtio_device *v, unsigned q)
{
	/* Can only fail when the counter is full, and then the loop wakes anyway. */
	(void)!write(v->notify[q].fd, &(uint64_t){1}, sizeof(uint64_t));
}

static void interrupt(struct virtio_device *v, uint32_t why)
{
	v->interrupt_status |= why;
	device_irq(&v->dev);
}

void virtio_used(struct virtio_device *v, unsigned q)
{
	if (virtqueue_wants_irq(&v->queue[q]))
		interrupt(v, VIRTIO_MMIO_INT_VRING);
}

void virtio_break(struct virtio_device *v, const char *why)
{
	v->broken++;
	if (v->broken <= BREAKS_LOGGED)
		log_warn("%s: the guest's driver broke the device: %s%s", v->dev.id, why,
			 v->broken == BREAKS_LOGGED ? " (not logged again)" : "");
	v->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	if (v->status & VIRTIO_CONFIG_S_DRIVER_OK)
		interrupt(v, VIRTIO_MMIO_INT_CONFIG);
}

/* ---- notifications -------------------------------------------------------------------------- */

static void notified(void *arg, uint32_t events)
{
	struct virtio_notify *n = arg;
	struct virtio_device *v = n->v;
	unsigned q = (unsigned)(n - v->notify);
	uint64_t count;

	(void)!read(n->fd, &count, sizeof(count));
	if (virtio_live(v) && v->queue[q].ready)
		v->vops->notify(v, q);
}

/*
 * Have KVM signal the eventfds by itself. Never undone: KVM drops them with the VM, and doing
 * it one by one would wait for a grace period each.
 */
static void register_notify(struct virtio_device *v)
{
	for (unsigned i = 0; i < v->vops->nqueues; i++) {
		struct kvm_ioeventfd io = {
			.datamatch = i,
			.addr = v->dev.base + VIRTIO_MMIO_QUEUE_NOTIFY,
			.len = 4,
			.fd = v->notify[i].fd,
			.flags = KVM_IOEVENTFD_FLAG_DATAMATCH,
		};

		if (v->notify[i].registered || v->dev.vm->fd < 0)
			continue;
		if (ioctl(v->dev.vm->fd, KVM_IOEVENTFD, &io) < 0)
			log_warn("%s: no ioeventfd for queue %u, each notification will exit: %m",
				 v->dev.id, i);
		else
			v->notify[i].registered = true;
	}
}

/* ---- registers ------------------------------------------------------------------------------ */

static void reset(struct virtio_device *v)
{
	if (v->vops->reset)
		v->vops->reset(v);
	v->status = 0;
	v->interrupt_status = 0;
	v->driver_features = 0;
	v->device_features_sel = v->driver_features_sel = v->queue_sel = 0;
	for (unsigned i = 0; i < v->vops->nqueues; i++)
		virtqueue_reset(&v->queue[i]);
}

static bool features_ok(const struct virtio_device *v)
{
	return !(v->driver_features & ~v->offered) && virtio_has(v, VIRTIO_F_VERSION_1);
}

static void set_status(struct virtio_device *v, uint32_t value)
{
	uint8_t had = v->status, add;

	if (value == 0) {
		reset(v);
		return;
	}
	add = value & (STATUS_STEPS | VIRTIO_CONFIG_S_FAILED) & ~had;
	if ((add & VIRTIO_CONFIG_S_FEATURES_OK) &&
	    (!features_ok(v) || !((had | add) & VIRTIO_CONFIG_S_DRIVER)))
		add &= ~VIRTIO_CONFIG_S_FEATURES_OK;
	if ((add & VIRTIO_CONFIG_S_DRIVER_OK) && !((had | add) & VIRTIO_CONFIG_S_FEATURES_OK))
		add &= ~VIRTIO_CONFIG_S_DRIVER_OK;
	v->status |= add;
	if (!(add & VIRTIO_CONFIG_S_DRIVER_OK))
		return;
	register_notify(v);
	if (v->vops->activate)
		v->vops->activate(v);
	/* A driver may have filled its rings before. */
	for (unsigned i = 0; i < v->vops->nqueues; i++)
		virtio_kick(v, i);
}

/* Queues are set up between FEATURES_OK and DRIVER_OK. */
static struct virtqueue *queue_in_setup(struct virtio_device *v)
{
	uint8_t phase = v->status & (VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);

	if (v->queue_sel >= v->vops->nqueues || phase != VIRTIO_CONFIG_S_FEATURES_OK)
		return NULL;
	return &v->queue[v->queue_sel];
}

static void set_queue_ready(struct virtio_device *v, uint32_t value)
{
	struct virtqueue *q;

	if (value == 0) {
		/* What is in flight on it will find it not ready and be dropped. */
		if (v->queue_sel < v->vops->nqueues)
			virtqueue_reset(&v->queue[v->queue_sel]);
		return;
	}
	q = queue_in_setup(v);
	if (!q || q->ready)
		return;
	q->event_idx = virtio_has(v, VIRTIO_RING_F_EVENT_IDX);
	if (virtqueue_enable(q) < 0)
		virtio_break(v, q->fault);
}

static void set_half(uint64_t *where, bool high, uint32_t value)
{
	if (high)
		*where = (uint32_t)*where | (uint64_t)value << 32;
	else
		*where = (*where & ~0xffffffffull) | value;
}

static void set_queue(struct virtio_device *v, uint64_t off, uint32_t value)
{
	struct virtqueue *q = queue_in_setup(v);

	if (!q || q->ready)
		return;
	switch (off) {
	case VIRTIO_MMIO_QUEUE_NUM:
		/* A value that does not fit must not become one that does. */
		q->size = value <= q->max_size ? value : 0;
		break;
	case VIRTIO_MMIO_QUEUE_DESC_LOW:
	case VIRTIO_MMIO_QUEUE_DESC_HIGH:
		set_half(&q->desc_gpa, off == VIRTIO_MMIO_QUEUE_DESC_HIGH, value);
		break;
	case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
	case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
		set_half(&q->avail_gpa, off == VIRTIO_MMIO_QUEUE_AVAIL_HIGH, value);
		break;
	case VIRTIO_MMIO_QUEUE_USED_LOW:
	case VIRTIO_MMIO_QUEUE_USED_HIGH:
		set_half(&q->used_gpa, off == VIRTIO_MMIO_QUEUE_USED_HIGH, value);
		break;
	default:
		break;
	}
}

static uint64_t config_read(struct virtio_device *v, uint64_t off, unsigned len)
{
	uint64_t value = 0;
	unsigned n = 0;
	const void *c = v->vops->config ? v->vops->config(v, &n) : NULL;

	if (c && off < n)
		memcpy(&value, (const uint8_t *)c + off, MIN(len, n - off));
	return value;
}

uint64_t virtio_mmio_read(struct device *d, uint64_t off, unsigned len)
{
	struct virtio_device *v = virtio_of(d);
	const struct virtqueue *q =
		v->queue_sel < v->vops->nqueues ? &v->queue[v->queue_sel] : NULL;

	if (off >= VIRTIO_MMIO_CONFIG)
		return config_read(v, off - VIRTIO_MMIO_CONFIG, MIN(len, 8u));
	if (len != 4)
		return 0;
	switch (off) {
	case VIRTIO_MMIO_MAGIC_VALUE:
		return MAGIC;
	case VIRTIO_MMIO_VERSION:
		return VERSION;
	case VIRTIO_MMIO_DEVICE_ID:
		return v->vops->device_id;
	case VIRTIO_MMIO_VENDOR_ID:
		return VENDOR_ID;
	case VIRTIO_MMIO_DEVICE_FEATURES:
		return v->device_features_sel > 1
			       ? 0
			       : (uint32_t)(v->offered >> 32 * v->device_features_sel);
	case VIRTIO_MMIO_QUEUE_NUM_MAX:
		return q ? q->max_size : 0;
	case VIRTIO_MMIO_QUEUE_READY:
		return q && q->ready;
	case VIRTIO_MMIO_INTERRUPT_STATUS:
		return v->interrupt_status;
	case VIRTIO_MMIO_STATUS:
		return v->status;
	case VIRTIO_MMIO_SHM_LEN_LOW:
	case VIRTIO_MMIO_SHM_LEN_HIGH:
	case VIRTIO_MMIO_SHM_BASE_LOW:
	case VIRTIO_MMIO_SHM_BASE_HIGH:
		return 0xffffffff; /* there is no such region */
	default:
		/* The config generation among them: the config space never changes. */
		return 0;
	}
}

void virtio_mmio_write(struct device *d, uint64_t off, unsigned len, uint64_t value64)
{
	struct virtio_device *v = virtio_of(d);
	uint32_t value = (uint32_t)value64;

	if (len != 4)
		return;
	switch (off) {
	case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
		v->device_features_sel = value;
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
		v->driver_features_sel = value;
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES:
		if (v->driver_features_sel <= 1 && !(v->status & VIRTIO_CONFIG_S_FEATURES_OK))
			set_half(&v->driver_features, v->driver_features_sel, value);
		break;
	case VIRTIO_MMIO_QUEUE_SEL:
		v->queue_sel = value;
		break;
	case VIRTIO_MMIO_QUEUE_READY:
		set_queue_ready(v, value);
		break;
	case VIRTIO_MMIO_QUEUE_NOTIFY:
		if (value < v->vops->nqueues)
			virtio_kick(v, value);
		break;
	case VIRTIO_MMIO_INTERRUPT_ACK:
		v->interrupt_status &= ~value;
		break;
	case VIRTIO_MMIO_STATUS:
		set_status(v, value);
		break;
	default:
		set_queue(v, off, value);
		break;
	}
}

void virtio_mmio_aml(struct device *d, struct writer *w)
{
	aml_virtio_mmio(w, d->base, d->size, d->gsi);
}

/* ---- state ---------------------------------------------------------------------------------- */

int virtio_mmio_quiesce(struct device *d, struct err *err)
{
	struct virtio_device *v = virtio_of(d);
	int ret = v->vops->quiesce ? v->vops->quiesce(v, err) : 0;

	v->quiet = ret == 0;
	return ret;
}

void virtio_mmio_resume(struct device *d)
{
	struct virtio_device *v = virtio_of(d);

	v->quiet = false;
	if (v->vops->resume)
		v->vops->resume(v);
	for (unsigned i = 0; i < v->vops->nqueues; i++)
		virtio_kick(v, i);
	if (v->interrupt_status)
		device_irq(d);
}

void virtio_mmio_save(struct device *d, struct writer *w)
{
	struct virtio_device *v = virtio_of(d);

	put_u32(w, v->vops->device_id);
	put_u64(w, v->dev.base);
	put_u32(w, (uint32_t)v->dev.gsi);
	put_u8(w, v->status);
	put_u32(w, v->interrupt_status);
	put_u64(w, v->driver_features);
	put_u32(w, v->device_features_sel);
	put_u32(w, v->driver_features_sel);
	put_u32(w, v->queue_sel);
	put_u16(w, (uint16_t)v->vops->nqueues);
	for (unsigned i = 0; i < v->vops->nqueues; i++)
		virtqueue_save(&v->queue[i], w);
	if (v->vops->save)
		v->vops->save(v, w);
}

/* What only makes sense together. */
static const char *contradiction(const struct virtio_device *v)
{
	uint8_t s = v->status;

	if (s & ~(STATUS_STEPS | VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED))
		return "unknown status bits";
	if ((s & VIRTIO_CONFIG_S_FEATURES_OK) && !features_ok(v))
		return "features this device does not offer";
	if ((s & VIRTIO_CONFIG_S_DRIVER_OK) && !(s & VIRTIO_CONFIG_S_FEATURES_OK))
		return "a driver up without agreed features";
	if (v->interrupt_status & ~(VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG))
		return "unknown interrupt bits";
	for (unsigned i = 0; i < v->vops->nqueues; i++)
		if (v->queue[i].ready && !(s & VIRTIO_CONFIG_S_FEATURES_OK))
			return "a queue set up before the features";
	return NULL;
}

int virtio_mmio_load(struct device *d, uint16_t version, struct reader *r, struct err *err)
{
	struct virtio_device *v = virtio_of(d);
	uint32_t id, gsi;
	uint64_t base;
	uint16_t nqueues;
	const char *bad;
	int ret;

	if (version > d->ops->version)
		return err_set(err, ENOTSUP, "%s: state version %u is newer than this program's %u",
			       d->id, version, d->ops->version);
	id = get_u32(r);
	base = get_u64(r);
	gsi = get_u32(r);
	v->status = get_u8(r);
	v->interrupt_status = get_u32(r);
	v->driver_features = get_u64(r);
	v->device_features_sel = get_u32(r);
	v->driver_features_sel = get_u32(r);
	v->queue_sel = get_u32(r);
	nqueues = get_u16(r);
	if (!reader_ok(r))
		return err_set(err, EBADMSG, "%s: saved state is cut short", d->id);
	if (id != v->vops->device_id || nqueues != v->vops->nqueues)
		return err_set(err, EBADMSG, "%s: saved state is of another kind of device", d->id);
	if (base != d->base || gsi != (uint32_t)d->gsi)
		return err_set(
			err, EBADMSG,
			"%s: saved at %#llx irq %u, but here at %#llx irq %d: devices differ",
			d->id, (unsigned long long)base, gsi, (unsigned long long)d->base, d->gsi);
	for (unsigned i = 0; i < nqueues; i++) {
		v->queue[i].event_idx = virtio_has(v, VIRTIO_RING_F_EVENT_IDX);
		ret = virtqueue_load(&v->queue[i], r, v->status & VIRTIO_CONFIG_S_NEEDS_RESET,
				     d->id, err);
		if (ret < 0)
			return ret;
	}
	bad = contradiction(v);
	if (bad)
		return err_set(err, EBADMSG, "%s: saved state is refused: %s", d->id, bad);
	ret = v->vops->load ? v->vops->load(v, version, r, err) : 0;
	if (ret < 0)
		return ret;
	if (!reader_done(r))
		return err_set(err, EBADMSG, "%s: saved state is cut short or too long", d->id);
	v->quiet = true;
	if (v->status & VIRTIO_CONFIG_S_DRIVER_OK)
		register_notify(v);
	return 0;
}

/* ---- life ----------------------------------------------------------------------------------- */

int virtio_device_init(struct virtio_device *v, struct vm *vm, const char *id,
		       const struct device_ops *ops, const struct virtio_ops *vops, struct err *err)
{
	int ret;

	v->dev = (struct device){.ops = ops, .vm = vm, .bus = BUS_MMIO, .size = VIRTIO_MMIO_SIZE};
	v->dev.gsi = v->dev.irq_fd = -1;
	v->vops = vops;
	v->offered = vops->features | VIRTIO_BIT(VIRTIO_F_VERSION_1) |
		     VIRTIO_BIT(VIRTIO_RING_F_EVENT_IDX);
	for (unsigned i = 0; i < VIRTIO_MAX_QUEUES; i++)
		v->notify[i] = (struct virtio_notify){.v = v, .fd = -1};
	if (snprintf(v->dev.id, sizeof(v->dev.id), "%s", id) >= (int)sizeof(v->dev.id))
		return err_set(err, EINVAL, "device id %s: longer than %zu bytes", id,
			       sizeof(v->dev.id) - 1);
	for (unsigned i = 0; i < vops->nqueues; i++) {
		struct virtio_notify *n = &v->notify[i];

		virtqueue_init(&v->queue[i], &vm->mem, vops->queue_size, vops->chain_max);
		n->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		if (n->fd < 0)
			ret = err_errno(err, "%s: create an eventfd", id);
		else
			ret = loop_watch(vm->loop, n->fd, EPOLLIN, notified, n, &n->watch, err);
		if (ret < 0) {
			virtio_device_fini(v);
			return ret;
		}
	}
	return 0;
}

int virtio_device_add(struct virtio_device *v, struct err *err)
{
	int ret = vm_add_device(v->dev.vm, &v->dev, err);

	if (ret < 0)
		v->dev.ops->free(&v->dev);
	return ret;
}

void virtio_device_fini(struct virtio_device *v)
{
	for (unsigned i = 0; i < VIRTIO_MAX_QUEUES; i++) {
		struct virtio_notify *n = &v->notify[i];

		if (n->watch)
			loop_unwatch(v->dev.vm->loop, n->watch);
		if (n->fd >= 0)
			close(n->fd);
		n->watch = NULL;
		n->fd = -1;
	}
}

void virtio_mmio_free(struct device *d)
{
	struct virtio_device *v = virtio_of(d);

	virtio_device_fini(v);
	v->vops->free(v);
}
