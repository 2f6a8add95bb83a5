/*
 * pull.h - pull one image into a store.
 *
 * The order: what the tag means now; nothing to do when the store has exactly that; manifest and
 * config; the layers the store lacks, several at a time; all layers merged; one commit of the
 * layers and the merged tree; rootfs.erofs made over it; one commit that publishes the image.
 * Readers see the old image of that name or the new, and nothing at all of a pull that failed or
 * was interrupted but layers, which are whole by themselves and spare the next attempt their
 * download.
 *
 * The image's directory: manifest.json and config.json byte for byte, rootfs, rootfs.erofs. On
 * manifest.json three xattrs say what it was pulled from.
 */
#ifndef PULL_PULL_H
#define PULL_PULL_H

#include <stdbool.h>
#include <stdint.h>

#include "pull/manifest.h"
#include "pull/progress.h"
#include "pull/ref.h"
#include "pull/registry.h"
#include "smfs/store/store.h"

#define XATTR_MANIFEST "user.smvm.manifest" /* digest of manifest.json */
#define XATTR_SOURCE \
	"user.smvm.source" /* digest of what the reference pointed to: an index, perhaps */
#define XATTR_PLATFORM "user.smvm.platform"

struct pull_options {
	struct ref ref;
	char name[SMFS_REF_MAX + 1];
	struct platform platform;
	struct registry_options registry;
	unsigned jobs;	   /* layers at a time */
	uint64_t max_size; /* bytes the image may unpack to */
};

struct pull_result {
	struct digest source, manifest;
	bool up_to_date; /* the store had it; the rest is zero */
	unsigned layers, layers_reused;
	uint64_t downloaded;
	uint64_t erofs_bytes,
		erofs_dup_bytes;	  /* size of rootfs.erofs, and what of it the store had */
	uint64_t new_bytes, stored_bytes; /* raw bytes the store lacked, and what they take */
};

/* Call erofs_isolate() first. `counters` are updated as it goes. */
int pull_image(struct smfs_store *s, const struct pull_options *o, struct cancel *cancel,
	       struct pull_counters *counters, struct pull_result *out, struct err *err);

#endif
