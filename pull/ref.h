/*
 * ref.h - what a user may name to pull.
 *
 *     [registry[:port]/]repository[:tag][@sha256:<hex>]    docker.io and "latest" by default
 *     oci:DIR[:tag]                                         an OCI image layout on disk
 *
 * Parsed as docker does: the first component is a registry when it has a '.' or ':' or is
 * "localhost"; a one-word Docker Hub name gets "library/". A struct ref owns no memory.
 */
#ifndef PULL_REF_H
#define PULL_REF_H

#include <limits.h>
#include <stdbool.h>

#include "pull/digest.h"
#include "smfs/store/store.h"

#define REF_REGISTRY_MAX   255
#define REF_REPOSITORY_MAX 255
#define REF_TAG_MAX	   128

enum ref_kind { REF_REGISTRY, REF_LAYOUT };

struct ref {
	enum ref_kind kind;
	char registry[REF_REGISTRY_MAX + 1]; /* as named: "docker.io", "localhost:5000" */
	char repository[REF_REPOSITORY_MAX + 1];
	char tag[REF_TAG_MAX + 1]; /* "" when only a digest was given, or a layout has no tag */
	bool has_digest;
	struct digest digest;
	char dir[PATH_MAX]; /* REF_LAYOUT */
};

int ref_parse(const char *text, struct ref *out, struct err *err);

/*
 * The store's name for it: "<registry>/<repository>:<tag>"; a bare digest becomes the tag
 * "sha256-<hex>", a layout "localhost/<last component of DIR>:<tag, or latest>". -EINVAL when
 * that is no valid image name.
 */
int ref_image_name(const struct ref *ref, char out[SMFS_REF_MAX + 1], struct err *err);

/* Host and port to connect to: docker.io's registry lives elsewhere. */
const char *ref_registry_host(const struct ref *ref);
/* The registry is this machine: localhost, 127.0.0.0/8 or [::1], any port. */
bool ref_is_loopback(const struct ref *ref);

#endif
