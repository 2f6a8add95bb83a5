/* capture.c - registers and devices into sections, what they are into meta. */
#include "runner/snapshot/capture.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <xxhash.h>

#include "runner/snapshot/hostcpu.h"
#include "runner/snapshot/sections.h"
#include "runner/snapshot/state_file.h"
#include "runner/snapshot/state_items.h"
#include "runner/vm/vcpu.h"
#include "smfs/base/cleanup.h"

int capture_check(const struct machine *m, struct err *err)
{
	for (const struct device *d = m->vm->devices; d; d = d->next)
		if (!state_item_of_device(d->ops->type))
			return err_set(
				err, ENOTSUP,
				"device %s (%s): nothing says what becomes of it on a restore",
				d->id, d->ops->type);
	for (unsigned i = 0; i < m->ndisks; i++)
		if (!m->disk[i].readonly && !meta_content_name(m->disk[i].id))
			return err_set(
				err, ENOTSUP,
				"disk %s: no name for a file in a snapshot; \"disk-%s\" would "
				"be one",
				m->disk[i].id, m->disk[i].id);
	return 0;
}

static int capture_vcpus(const struct vm *vm, struct snapshot_meta *meta, struct writer *w,
			 struct err *err)
{
	cleanup_free struct vcpu_state *s = malloc(sizeof(*s));
	cleanup_free struct state_plan *plan = malloc(sizeof(*plan));
	int ret;

	if (!s || !plan)
		return err_set(err, ENOMEM, "capture vCPU state: out of memory");
	ret = state_plan_new(vm->kvm_fd, vm->fd, vm->irqchip, plan, err);
	for (unsigned i = 0; ret == 0 && i < vm->nvcpus; i++) {
		ret = vcpu_state_get(vm->vcpu[i]->fd, i, plan, s, err);
		if (ret < 0)
			break;
		state_file_put_vcpu(w, i, s);
		if (i == 0) {
			const uint64_t microcode = meta->cpu.microcode;

			/* struct vcpu_cpuid is kvm_cpuid2 with room. */
			hostcpu_get(&meta->cpu, (const struct kvm_cpuid2 *)&s->cpuid);
			meta->cpu.microcode = microcode;
			meta->tsc_khz = s->tsc_khz;
		}
	}
	return ret;
}

static int capture_vm(struct vm *vm, struct writer *w, struct err *err)
{
	cleanup_free struct vm_irq_state *s = malloc(sizeof(*s));
	int ret;

	if (!s)
		return err_set(err, ENOMEM, "capture VM state: out of memory");
	ret = vm_irq_state_get(vm->fd, vm->irqchip, s, err);
	if (ret == 0 && vm->irqchip)
		ret = pit_save(vm, &s->pit2, err);
	if (ret == 0)
		state_file_put_vm(w, s);
	return ret;
}

static int capture_devices(const struct machine *m, struct snapshot_meta *meta, struct writer *w,
			   struct err *err)
{
	for (struct device *d = m->vm->devices; d; d = d->next) {
		struct meta_device *md;
		size_t at;

		if (meta->ndevices == META_DEVICES_MAX)
			return err_set(err, E2BIG, "more than %d devices", META_DEVICES_MAX);
		md = &meta->device[meta->ndevices++];
		if (!meta_text(md->id, sizeof(md->id), d->id) ||
		    !meta_text(md->type, sizeof(md->type), d->ops->type))
			return err_set(err, ENAMETOOLONG, "device %s: name too long", d->id);
		md->version = d->ops->version;
		md->base = d->base;
		md->size = d->size;
		md->gsi = d->gsi;
		for (unsigned i = 0; i < m->ndisks; i++)
			if (strcmp(m->disk[i].id, d->id) == 0) {
				/* Both are of MACHINE_PATH_MAX. */
				meta_text(md->source, sizeof(md->source), m->disk[i].path);
				md->readonly = m->disk[i].readonly;
				md->content = md->readonly ? 0 : m->disk[i].bytes;
			}
		at = section_open(w, SECTION_DEVICE, d->ops->version, 0, d->id);
		if (d->ops->save)
			d->ops->save(d, w);
		section_close(w, at);
	}
	return 0;
}

static void describe_memory(const struct memory *mem, struct snapshot_meta *meta)
{
	meta->ram_bytes = memory_ram_bytes(mem);
	for (unsigned i = 0; i < mem->n; i++) {
		const struct memory_region *r = &mem->region[i];

		if (r->kind == MEMORY_RAM)
			meta->region[meta->nregions++] = (struct meta_region){
				.gpa = r->gpa, .size = r->size, .offset = r->file_off};
	}
}

int capture_machine(const struct machine *m, struct snapshot_meta *meta, struct writer *w,
		    struct err *err)
{
	struct vm *vm = m->vm;
	struct timespec wall;
	int ret;

	clock_gettime(CLOCK_REALTIME, &wall);
	meta->wall_clock_ns = (int64_t)wall.tv_sec * 1000000000 + wall.tv_nsec;
	meta->vcpus = vm->nvcpus;
	describe_memory(&vm->mem, meta);
	sections_begin(w);
	pthread_mutex_lock(&vm->dev_lock);
	ret = capture_vcpus(vm, meta, w, err);
	if (ret == 0)
		ret = capture_vm(vm, w, err);
	if (ret == 0)
		ret = capture_devices(m, meta, w, err);
	pthread_mutex_unlock(&vm->dev_lock);
	if (ret < 0)
		return ret;
	sections_end(w);
	if (w->failed)
		return err_set(err, ENOMEM, "capture state: out of memory, or state too large");
	meta->vcpu_bytes = w->len;
	meta->vcpu_xxh3 = XXH3_64bits(w->p, w->len);
	return 0;
}
