#include "runner/devices/vmgenid.h"

#include "runner/vm/vm.h"
#include "runner/x86/aml.h"
#include "runner/x86/layout.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOTIFY_CHANGED 0x80 /* "Virtual Machine Generation ID", Microsoft, 2012 */

static void vmgenid_aml(struct device *d, struct writer *w)
{
	size_t dev = aml_device(w, "VGEN");

	aml_name_string(w, "_HID", "VMGENCTR");
	aml_name_string(w, "_CID", "VM_Gen_Counter");
	aml_name_string(w, "_DDN", "VM_Gen_Counter");
	aml_name(w, "ADDR");
	size_t addr = aml_package(w, 2);
	aml_int(w, LAYOUT_VMGENID & UINT32_MAX);
	aml_int(w, LAYOUT_VMGENID >> 32);
	aml_end(w, addr);
	aml_end(w, dev);

	dev = aml_device(w, "GED0");
	aml_name_string(w, "_HID", "ACPI0013");
	aml_name_int(w, "_UID", 0);
	size_t crs = aml_resources(w);
	aml_interrupt(w, d->gsi);
	aml_resources_end(w, crs);
	size_t evt = aml_method(w, "_EVT", 1);
	aml_notify(w, "VGEN", NOTIFY_CHANGED);
	aml_end(w, evt);
	aml_end(w, dev);
}

int vmgenid_set(struct device *d, const uint8_t id[VMGENID_LEN], bool notify, struct err *err)
{
	void *p = memory_at(&d->vm->mem, LAYOUT_VMGENID, VMGENID_LEN);

	if (!p)
		return err_set(err, EINVAL, "set generation ID: no RAM at %#llx", LAYOUT_VMGENID);
	memcpy(p, id, VMGENID_LEN);
	if (notify)
		device_irq(d);
	return 0;
}

static void vmgenid_free(struct device *d)
{
	free(d);
}

static const struct device_ops vmgenid_ops = {
	.type = "vmgenid",
	.version = 1,
	.aml = vmgenid_aml,
	.free = vmgenid_free,
};

int vmgenid_new(struct vm *vm, struct device **out, struct err *err)
{
	struct device *d = calloc(1, sizeof(*d));

	if (!d)
		return err_set(err, ENOMEM, "create generation ID device: out of memory");
	*d = (struct device){.ops = &vmgenid_ops, .bus = BUS_NONE, .gsi = LAYOUT_GED_GSI};
	snprintf(d->id, sizeof(d->id), "vmgenid");
	int r = vm_add_device(vm, d, err);
	if (r < 0) {
		free(d);
		return r;
	}
	if (out)
		*out = d;
	return 0;
}
