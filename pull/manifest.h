/*
 * manifest.h - indexes, manifests and configs of OCI and Docker schema 2, parsed and bounded.
 *
 * Whatever names a type - HTTP header, body, the descriptor that led here - must agree. Schema 1
 * and artifacts that are no container image are refused. The JSON is hostile: sizes, counts and
 * string lengths are checked, and nothing here touches disk or network.
 */
#ifndef PULL_MANIFEST_H
#define PULL_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pull/digest.h"

struct err;

#define MANIFEST_MAX   (4u << 20) /* the distribution spec's limit */
#define CONFIG_MAX     (8u << 20)
#define LAYERS_MAX     512
#define PLATFORMS_MAX  4096
#define MEDIA_TYPE_MAX 128
#define PLATFORM_FIELD 32

#define MT_OCI_INDEX	   "application/vnd.oci.image.index.v1+json"
#define MT_OCI_MANIFEST	   "application/vnd.oci.image.manifest.v1+json"
#define MT_OCI_CONFIG	   "application/vnd.oci.image.config.v1+json"
#define MT_DOCKER_LIST	   "application/vnd.docker.distribution.manifest.list.v2+json"
#define MT_DOCKER_MANIFEST "application/vnd.docker.distribution.manifest.v2+json"
#define MT_DOCKER_CONFIG   "application/vnd.docker.container.image.v1+json"

/* What a manifest request accepts. */
#define MANIFEST_ACCEPT \
	MT_OCI_INDEX ", " MT_OCI_MANIFEST ", " MT_DOCKER_LIST ", " MT_DOCKER_MANIFEST

struct descriptor {
	char media_type[MEDIA_TYPE_MAX];
	struct digest digest;
	uint64_t size;
};

enum layer_compression { LAYER_TAR, LAYER_GZIP, LAYER_ZSTD };

struct layer_desc {
	struct descriptor d;
	enum layer_compression compression;
	struct digest diff_id; /* from the config */
};

struct platform {
	char os[PLATFORM_FIELD], arch[PLATFORM_FIELD], variant[PLATFORM_FIELD];
};

/* "linux/amd64", "linux/arm64/v8". */
int platform_parse(const char *text, struct platform *out, struct err *err);
char *platform_format(const struct platform *p, char out[3 * PLATFORM_FIELD + 3]);

/*
 * true when `body`, told to be of `media_type` ("" or "application/json" = not told), is an index.
 * Errors: -ENOTSUP schema 1 and unknown types, -EBADMSG malformed or contradicting types.
 */
int manifest_is_index(const char *body, size_t len, const char *media_type, bool *out,
		      struct err *err);

/* The manifest of `want` in an index. -ENOENT lists what there is. */
int index_choose(const char *body, size_t len, const struct platform *want, struct descriptor *out,
		 struct err *err);

struct manifest {
	struct descriptor config;
	struct layer_desc *layers;
	size_t nlayers;
};

int manifest_parse(const char *body, size_t len, struct manifest *out, struct err *err);
void manifest_free(struct manifest *m);

/*
 * Check a config against its manifest and platform and fill each layer's diff_id; *created gets
 * the image's creation time in seconds, 0 when it names none.
 */
int config_apply(const char *body, size_t len, const struct platform *want, struct manifest *m,
		 int64_t *created, struct err *err);

#endif
