#include "runner/devices/pm.h"
#include "runner/vm/vm.h"
#include "runner/x86/layout.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define PULSE_RESET 0xfe

static uint64_t i8042_read(struct device *d, uint64_t off, unsigned len)
{
	return 0; /* status: both buffers empty, so a command may be written */
}

static void i8042_write(struct device *d, uint64_t off, unsigned len, uint64_t value)
{
	if ((uint8_t)value == PULSE_RESET)
		vm_end(d->vm, VM_RESET);
}

static void i8042_free(struct device *d)
{
	free(d);
}

static const struct device_ops i8042_ops = {
	.type = "i8042",
	.version = 1,
	.read = i8042_read,
	.write = i8042_write,
	.free = i8042_free,
};

int i8042_new(struct vm *vm, struct err *err)
{
	struct device *d = calloc(1, sizeof(*d));

	if (!d)
		return err_set(err, ENOMEM, "create keyboard controller: out of memory");
	*d = (struct device){
		.ops = &i8042_ops,
		.bus = BUS_PIO,
		.base = LAYOUT_I8042_COMMAND,
		.size = 1,
		.gsi = -1,
	};
	snprintf(d->id, sizeof(d->id), "i8042");
	int r = vm_add_device(vm, d, err);
	if (r < 0)
		free(d);
	return r;
}
