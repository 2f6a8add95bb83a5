/*
 * aml.h - a small ACPI machine language encoder (ACPI 6.5, chapter 20): just the objects a device
 * needs to describe itself. Output goes to a struct writer, which remembers failure.
 *
 *     size_t dev = aml_device(w, "VR00");
 *     aml_name_string(w, "_HID", "LNRO0005");
 *     size_t crs = aml_resources(w);
 *     aml_memory32(w, base, size);
 *     aml_interrupt(w, gsi);
 *     aml_resources_end(w, crs);
 *     aml_end(w, dev);
 *
 * Names are exactly four characters of [A-Z0-9_], the first not a digit.
 */
#ifndef RUNNER_X86_AML_H
#define RUNNER_X86_AML_H

#include <stddef.h>
#include <stdint.h>

#include "smfs/base/bytes.h"

/* Open an object with a package length; aml_end() closes it. At most 1 MiB each. */
size_t aml_scope(struct writer *w, const char *name); /* relative to the root: "_SB_" */
size_t aml_device(struct writer *w, const char *name);
size_t aml_method(struct writer *w, const char *name, unsigned args);
void aml_end(struct writer *w, size_t at);

void aml_name(struct writer *w, const char *name); /* Name (name, <what follows>) */
void aml_name_int(struct writer *w, const char *name, uint64_t v);
void aml_name_string(struct writer *w, const char *name, const char *s);
/* Name (name, EisaId ("PNP0501")): three capitals, four hex digits. */
void aml_name_eisaid(struct writer *w, const char *name, const char *id);

void aml_int(struct writer *w, uint64_t v);
void aml_string(struct writer *w, const char *s);
/* Package of `n` elements: aml_package(), n objects, aml_end(). */
size_t aml_package(struct writer *w, uint8_t n);
/* Notify (name, value), inside a method. */
void aml_notify(struct writer *w, const char *name, uint64_t value);

/* Name (_CRS, ResourceTemplate () { ... }) */
size_t aml_resources(struct writer *w);
void aml_memory32(struct writer *w, uint32_t base, uint32_t size);
void aml_io(struct writer *w, uint16_t base, uint8_t size);
void aml_interrupt(struct writer *w, uint32_t gsi); /* edge, active high, exclusive */
void aml_resources_end(struct writer *w, size_t at);

/* A whole virtio-mmio device: HID LNRO0005, named and numbered by its window. */
void aml_virtio_mmio(struct writer *w, uint64_t base, uint64_t size, int gsi);

#endif
