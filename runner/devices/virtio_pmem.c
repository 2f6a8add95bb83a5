/* virtio_pmem.c - the device over a mapped region. See virtio_pmem.h. */
#include "runner/devices/virtio_pmem.h"

#include <linux/virtio_ids.h>
#include <linux/virtio_pmem.h>
#include <stdlib.h>

#include "runner/devices/virtio_mmio.h"

struct pmem {
	struct virtio_device v;
	struct virtio_pmem_config config;
};

static struct pmem *pmem_of(struct virtio_device *v)
{
	return container_of(v, struct pmem, v);
}

static const void *pmem_config(struct virtio_device *v, unsigned *len)
{
	*len = sizeof(struct virtio_pmem_config);
	return &pmem_of(v)->config;
}

/* The medium is read-only: whatever the driver wants flushed is durable already. */
static void pmem_notify(struct virtio_device *v, unsigned qn)
{
	struct virtqueue *q = &v->queue[qn];
	struct virtqueue_chain c;
	int ret = 0;

	for (unsigned n = 0; n < q->size && (ret = virtqueue_pop(q, &c)) > 0; n++) {
		struct virtio_pmem_req req = {0};
		struct virtio_pmem_resp resp = {0};

		if (iov_to_buf(c.out, c.nout, 0, &req, sizeof(req)) < sizeof(req) ||
		    c.in_bytes < sizeof(resp)) {
			virtio_break(v, "flush request of a wrong size");
			return;
		}
		resp.ret = req.type == VIRTIO_PMEM_REQ_TYPE_FLUSH ? 0 : 1;
		iov_from_buf(c.in, c.nin, 0, &resp, sizeof(resp));
		virtqueue_push(q, &c, sizeof(resp));
	}
	if (ret < 0) {
		virtio_break(v, q->fault);
		return;
	}
	virtio_used(v, qn);
	if (ret > 0)
		virtio_kick(v, qn);
}

static void pmem_save(struct virtio_device *v, struct writer *w)
{
	put_u64(w, pmem_of(v)->config.start);
	put_u64(w, pmem_of(v)->config.size);
}

static int pmem_load(struct virtio_device *v, uint16_t version, struct reader *r, struct err *err)
{
	struct pmem *p = pmem_of(v);
	uint64_t start = get_u64(r), size = get_u64(r);

	if (start != p->config.start || size != p->config.size)
		return err_set(err, EBADMSG,
			       "%s: saved with %llu bytes at %#llx, but here are %llu at %#llx: "
			       "another image",
			       v->dev.id, (unsigned long long)size, (unsigned long long)start,
			       (unsigned long long)p->config.size,
			       (unsigned long long)p->config.start);
	return 0;
}

static void pmem_free(struct virtio_device *v)
{
	free(pmem_of(v));
}

static const struct device_ops device_ops = {
	VIRTIO_DEVICE_OPS,
	.type = "virtio-pmem",
	.version = 1,
};

static const struct virtio_ops pmem_ops = {
	.device_id = VIRTIO_ID_PMEM,
	.nqueues = 1,
	.queue_size = 64,
	.chain_max = 4096,
	.config = pmem_config,
	.notify = pmem_notify,
	.save = pmem_save,
	.load = pmem_load,
	.free = pmem_free,
};

int virtio_pmem_new(struct vm *vm, const char *id, unsigned n, struct err *err)
{
	const struct memory_region *found = NULL;
	struct pmem *p;
	int ret;

	for (unsigned i = 0, k = 0; i < vm->mem.n && !found; i++)
		if (vm->mem.region[i].kind == MEMORY_PMEM && k++ == n)
			found = &vm->mem.region[i];
	if (!found)
		return err_set(err, EINVAL, "%s: the machine has no pmem region %u", id, n);
	p = calloc(1, sizeof(*p));
	if (!p)
		return err_set(err, ENOMEM, "%s: out of memory", id);
	p->config = (struct virtio_pmem_config){.start = found->gpa, .size = found->size};
	ret = virtio_device_init(&p->v, vm, id, &device_ops, &pmem_ops, err);
	if (ret < 0) {
		free(p);
		return ret;
	}
	return virtio_device_add(&p->v, err);
}
