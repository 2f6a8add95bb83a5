#include "runner/devices/pm.h"

#include "runner/vm/vm.h"
#include "runner/x86/layout.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define SLEEP_TYPE(v) ((v) >> 2 & 7)

static uint64_t pm_read(struct device *d, uint64_t off, unsigned len)
{
	/* Sleep status: no wake has happened. The others are write-only. */
	return 0;
}

static void pm_write(struct device *d, uint64_t off, unsigned len, uint64_t value)
{
	if (off == PM_SLEEP_CONTROL && value & PM_SLEEP_ENABLE &&
	    SLEEP_TYPE(value) == PM_SLEEP_TYPE_S5)
		vm_end(d->vm, VM_SHUTDOWN);
	else if (off == PM_RESET && (uint8_t)value == PM_RESET_VALUE)
		vm_end(d->vm, VM_RESET);
}

static void pm_free(struct device *d)
{
	free(d);
}

static const struct device_ops pm_ops = {
	.type = "pm",
	.version = 1,
	.read = pm_read,
	.write = pm_write,
	.free = pm_free,
};

int pm_new(struct vm *vm, struct err *err)
{
	struct device *d = calloc(1, sizeof(*d));

	if (!d)
		return err_set(err, ENOMEM, "create power management: out of memory");
	*d = (struct device){
		.ops = &pm_ops,
		.bus = BUS_PIO,
		.base = LAYOUT_PM_PORT,
		.size = PM_PORTS,
		.gsi = -1,
	};
	snprintf(d->id, sizeof(d->id), "pm");
	int r = vm_add_device(vm, d, err);
	if (r < 0)
		free(d);
	return r;
}
