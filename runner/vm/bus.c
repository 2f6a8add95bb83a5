#include "runner/vm/bus.h"

#include "runner/vm/device.h"
#include "smfs/base/num.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

int bus_add(struct bus *b, struct device *d, struct err *err)
{
	uint64_t end;
	unsigned at = 0;

	if (!d->size || add_overflow_u64(d->base, d->size, &end))
		return err_set(err, EINVAL, "add device %s: bad window %#" PRIx64 "+%#" PRIx64,
			       d->id, d->base, d->size);
	if (b->n == BUS_MAX_DEVICES)
		return err_set(err, ENOSPC, "add device %s: the bus holds %u devices already",
			       d->id, b->n);
	for (unsigned i = 0; i < b->n; i++) {
		const struct device *o = b->dev[i];

		if (d->base < o->base + o->size && o->base < end)
			return err_set(err, EEXIST,
				       "add device %s: window %#" PRIx64 "+%#" PRIx64
				       " overlaps %s at %#" PRIx64,
				       d->id, d->base, d->size, o->id, o->base);
		if (o->base < d->base)
			at = i + 1;
	}
	for (unsigned i = b->n; i > at; i--)
		b->dev[i] = b->dev[i - 1];
	b->dev[at] = d;
	b->n++;
	return 0;
}

struct device *bus_find(const struct bus *b, uint64_t addr, unsigned len)
{
	unsigned lo = 0, hi = b->n;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;
		struct device *d = b->dev[mid];

		if (addr < d->base)
			hi = mid;
		else if (addr - d->base >= d->size)
			lo = mid + 1;
		else
			return range_ok(addr - d->base, len, d->size) ? d : NULL;
	}
	return NULL;
}

void bus_access(const struct bus *b, uint64_t addr, void *data, unsigned len, bool write)
{
	struct device *d = bus_find(b, addr, len);
	uint64_t v = 0;

	if (len > sizeof(v))
		return;
	if (write) {
		memcpy(&v, data, len);
		if (d && d->ops->write)
			d->ops->write(d, addr - d->base, len, v);
		return;
	}
	v = d && d->ops->read ? d->ops->read(d, addr - d->base, len) : UINT64_MAX;
	memcpy(data, &v, len);
}
