/*
 * state_items.h - every piece of state a machine has, and what a restore or a fork makes of it: the
 * one table of DESIGN.md section 6.
 *
 * The code asks it: a section of a type that is not in it is refused (sections.c), how many a vCPU
 * and a VM have is counted here, and a device whose type is not in it is not captured. A test walks
 * it both ways against a machine with everything in it: devices, sections, descriptors of the
 * process, and what the guest's agent sets.
 *
 * A device's own sections hold what its class says: kept, and for a reset one what survives the
 * reset.
 */
#ifndef RUNNER_SNAPSHOT_STATE_ITEMS_H
#define RUNNER_SNAPSHOT_STATE_ITEMS_H

#include <stddef.h>
#include <stdint.h>

enum state_class {
	STATE_SHARED,	 /* the same bytes in parent and child: read-only files, unwritten RAM */
	STATE_DERIVED,	 /* made anew on this host: descriptors, mappings */
	STATE_KEPT,	 /* carried over as saved: registers, ring positions */
	STATE_RESET,	 /* starts afresh, and the guest is told: vsock connections */
	STATE_IDENTIFIED /* replaced by a new identity: generation, hostname, random numbers */
};

enum state_where {
	STATE_VCPU,   /* a section per vCPU; `section` its type */
	STATE_VM,     /* `count` sections of the VM */
	STATE_DEVICE, /* name: device_ops.type */
	STATE_MEMORY, /* a part of the guest's memory */
	STATE_HOST,  /* a descriptor of the VM's process; name: fnmatch(3) of its /proc/self/fd link
		      */
	STATE_GUEST, /* the guest kernel's or its files'; name: of the agent's result where it sets
			it */
};

struct state_item {
	const char *name;
	enum state_where where;
	enum state_class class;
	uint32_t section; /* enum section_type; 0: none */
	unsigned count;	  /* STATE_VM: how many there are */
	const char *rule; /* what becomes of it; one line of doc/snapshot-format.md */
};

extern const struct state_item state_items[];
extern const size_t state_items_n;

const char *state_class_name(enum state_class c);
/* NULL when the table does not know it. */
const struct state_item *state_item_of_section(uint32_t type);
const struct state_item *state_item_of_device(const char *type);
/* Sections a machine with `vcpus` vCPUs has, its devices' apart. */
unsigned state_sections(unsigned vcpus);

#endif
