#include "pull/manifest.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "pull/text.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/err.h"
#include "smfs/base/num.h"

static void json_done(json_t **j)
{
	json_decref(*j);
}
#define cleanup_json cleanup_with(json_done)

static int load(const char *body, size_t len, const char *what, json_t **out, struct err *err)
{
	json_error_t e;

	/* Duplicate keys let two readers see two images in one document. */
	*out = json_loadb(body, len, JSON_REJECT_DUPLICATES, &e);
	if (!*out)
		return err_set(err, EBADMSG, "%s: not valid JSON, line %d: %s", what, e.line,
			       e.text);
	if (!json_is_object(*out))
		return err_set(err, EBADMSG, "%s: not a JSON object", what);
	return 0;
}

static const char *str(const json_t *obj, const char *key)
{
	const char *s = json_string_value(json_object_get(obj, key));

	return s ? s : "";
}

static int parse_descriptor(const json_t *j, const char *what, struct descriptor *out,
			    struct err *err)
{
	const json_t *size = json_object_get(j, "size");
	const char *type = str(j, "mediaType");

	if (!json_is_object(j) || !json_is_integer(size) || json_integer_value(size) < 0)
		return err_set(err, EBADMSG, "%s: no descriptor with a size", what);
	if (!*type || !text_copy(out->media_type, sizeof(out->media_type), type))
		return err_set(err, EBADMSG, "%s: its mediaType is missing or too long", what);
	if (digest_parse(str(j, "digest"), &out->digest, err) < 0)
		return err_wrap(err, -EBADMSG, "%s", what);
	out->size = json_integer_value(size);
	return 0;
}

int platform_parse(const char *text, struct platform *out, struct err *err)
{
	char *const fields[] = {out->os, out->arch, out->variant};
	const char *p = text;

	memset(out, 0, sizeof(*out));
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
		size_t n = strcspn(p, "/");

		if (n == 0 || n >= PLATFORM_FIELD)
			break;
		memcpy(fields[i], p, n);
		p += n;
		if (!*p)
			break;
		p++;
	}
	if (*p || !out->arch[0] || (p > text && p[-1] == '/'))
		return err_set(err, EINVAL,
			       "platform %.100s: write OS/ARCH[/VARIANT], such as linux/amd64",
			       text);
	return 0;
}

char *platform_format(const struct platform *p, char out[3 * PLATFORM_FIELD + 3])
{
	snprintf(out, 3 * PLATFORM_FIELD + 3, "%s/%s%s%s", p->os, p->arch, p->variant[0] ? "/" : "",
		 p->variant);
	return out;
}

int manifest_is_index(const char *body, size_t len, const char *media_type, bool *out,
		      struct err *err)
{
	cleanup_json json_t *root = NULL;
	const char *own, *type = media_type;
	int r = load(body, len, "manifest", &root, err);

	if (r < 0)
		return r;
	const json_t *version = json_object_get(root, "schemaVersion");

	if (json_is_integer(version) && json_integer_value(version) == 1)
		return err_set(err, ENOTSUP,
			       "manifest: Docker schema 1 is not supported; push the image again "
			       "with a current tool");
	if (!json_is_integer(version) || json_integer_value(version) != 2)
		return err_set(err, EBADMSG, "manifest: schemaVersion is not 2");
	own = str(root, "mediaType");
	if (!*type || strcmp(type, "application/json") == 0 || strcmp(type, "text/plain") == 0)
		type = own;
	else if (*own && strcmp(own, type) != 0)
		return err_set(err, EBADMSG, "manifest: served as %.100s but says it is %.100s",
			       type, own);

	bool lists = json_object_get(root, "manifests") != NULL;
	bool has_layers = json_object_get(root, "layers") || json_object_get(root, "config");

	if (lists == has_layers)
		return err_set(err, EBADMSG, "manifest: %s an index and an image manifest",
			       lists ? "is both" : "is neither");
	if (!*type)
		type = lists ? MT_OCI_INDEX : MT_OCI_MANIFEST;
	bool index_type = strcmp(type, MT_OCI_INDEX) == 0 || strcmp(type, MT_DOCKER_LIST) == 0;

	if (!index_type && strcmp(type, MT_OCI_MANIFEST) != 0 &&
	    strcmp(type, MT_DOCKER_MANIFEST) != 0)
		return err_set(err, ENOTSUP, "manifest: media type %.100s is not a container image",
			       type);
	if (index_type != lists)
		return err_set(err, EBADMSG, "manifest: its type %.100s contradicts its content",
			       type);
	*out = lists;
	return 0;
}

static bool is_manifest_type(const char *t)
{
	return strcmp(t, MT_OCI_MANIFEST) == 0 || strcmp(t, MT_DOCKER_MANIFEST) == 0;
}

static bool field_matches(const char *have, const char *want)
{
	return !*want || strcmp(have, want) == 0;
}

int index_choose(const char *body, size_t len, const struct platform *want, struct descriptor *out,
		 struct err *err)
{
	cleanup_json json_t *root = NULL;
	char have[300] = "", wanted[3 * PLATFORM_FIELD + 3];
	const json_t *best = NULL;
	int r = load(body, len, "index", &root, err);

	if (r < 0)
		return r;
	const json_t *list = json_object_get(root, "manifests");

	if (!json_is_array(list) || json_array_size(list) > PLATFORMS_MAX)
		return err_set(err, EBADMSG, "index: its list of manifests is missing or too long");
	for (size_t i = 0; i < json_array_size(list); i++) {
		const json_t *m = json_array_get(list, i);
		const json_t *p = json_object_get(m, "platform");
		const char *os = str(p, "os"), *arch = str(p, "architecture"),
			   *variant = str(p, "variant");
		size_t n = strlen(have);

		if (!is_manifest_type(str(m, "mediaType")))
			continue;
		/* An index of one image need not say for which platform: the config will. */
		if (!p && json_array_size(list) == 1)
			best = m;
		if (!p || strcmp(os, "unknown") == 0)
			continue;
		snprintf(have + n, sizeof(have) - n, "%s%.20s/%.20s%s%.20s", n ? ", " : "", os,
			 arch, *variant ? "/" : "", variant);
		if (strcmp(os, want->os) != 0 || strcmp(arch, want->arch) != 0 ||
		    !field_matches(variant, want->variant))
			continue;
		/* Without a wish, the entry without a variant is the baseline. */
		if (!best || (*str(json_object_get(best, "platform"), "variant") && !*variant))
			best = m;
	}
	if (!best)
		return err_set(err, ENOENT,
			       "index: no image for %s; it has: %s; choose with --platform",
			       platform_format(want, wanted), *have ? have : "none");
	r = parse_descriptor(best, "index", out, err);
	if (r == 0 && out->size > MANIFEST_MAX)
		return err_set(err, EBADMSG, "index: a manifest of %lu bytes is too large",
			       (unsigned long)out->size);
	return r;
}

static int layer_compression(const char *type, enum layer_compression *out, struct err *err)
{
	static const struct {
		const char *type;
		enum layer_compression c;
	} known[] = {
		{"application/vnd.oci.image.layer.v1.tar", LAYER_TAR},
		{"application/vnd.oci.image.layer.v1.tar+gzip", LAYER_GZIP},
		{"application/vnd.oci.image.layer.v1.tar+zstd", LAYER_ZSTD},
		{"application/vnd.docker.image.rootfs.diff.tar", LAYER_TAR},
		{"application/vnd.docker.image.rootfs.diff.tar.gzip", LAYER_GZIP},
		{"application/vnd.docker.image.rootfs.diff.tar.zstd", LAYER_ZSTD},
		/* "Not to be distributed" only forbids pushing; the registry may still hold it. */
		{"application/vnd.oci.image.layer.nondistributable.v1.tar", LAYER_TAR},
		{"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", LAYER_GZIP},
		{"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", LAYER_ZSTD},
	};

	for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
		if (strcmp(type, known[i].type) == 0) {
			*out = known[i].c;
			return 0;
		}
	}
	return err_set(err, ENOTSUP,
		       "layer of media type %.120s: not a file system layer this program knows",
		       type);
}

int manifest_parse(const char *body, size_t len, struct manifest *out, struct err *err)
{
	cleanup_json json_t *root = NULL;
	int r = load(body, len, "manifest", &root, err);

	memset(out, 0, sizeof(*out));
	if (r < 0)
		return r;
	r = parse_descriptor(json_object_get(root, "config"), "manifest: config", &out->config,
			     err);
	if (r < 0)
		return r;
	if (strcmp(out->config.media_type, MT_OCI_CONFIG) != 0 &&
	    strcmp(out->config.media_type, MT_DOCKER_CONFIG) != 0)
		return err_set(err, ENOTSUP,
			       "manifest: its config is %.100s: not a container image",
			       out->config.media_type);
	if (out->config.size > CONFIG_MAX)
		return err_set(err, EBADMSG, "manifest: a config of %lu bytes is too large",
			       (unsigned long)out->config.size);

	const json_t *list = json_object_get(root, "layers");

	if (!json_is_array(list) || json_array_size(list) > LAYERS_MAX)
		return err_set(err, EBADMSG,
			       "manifest: its list of layers is missing or longer than %d",
			       LAYERS_MAX);
	out->layers = calloc(json_array_size(list) + 1, sizeof(*out->layers));
	if (!out->layers)
		return err_set(err, ENOMEM, "manifest: out of memory");
	for (size_t i = 0; i < json_array_size(list) && r == 0; i++) {
		struct layer_desc *l = &out->layers[out->nlayers++];

		r = parse_descriptor(json_array_get(list, i), "manifest: layer", &l->d, err);
		if (r == 0)
			r = layer_compression(l->d.media_type, &l->compression, err);
	}
	if (r < 0)
		manifest_free(out);
	return r;
}

void manifest_free(struct manifest *m)
{
	free(m->layers);
	m->layers = NULL;
	m->nlayers = 0;
}

int config_apply(const char *body, size_t len, const struct platform *want, struct manifest *m,
		 int64_t *created, struct err *err)
{
	cleanup_json json_t *root = NULL;
	char wanted[3 * PLATFORM_FIELD + 3];
	struct tm tm = {0};
	int r = load(body, len, "config", &root, err);

	if (r < 0)
		return r;
	const char *os = str(root, "os"), *arch = str(root, "architecture");

	if (strcmp(os, want->os) != 0 || strcmp(arch, want->arch) != 0)
		return err_set(err, ENOENT,
			       "image is for %.30s/%.30s, not %s; choose with --platform", os, arch,
			       platform_format(want, wanted));
	const json_t *rootfs = json_object_get(root, "rootfs");
	const json_t *ids = json_object_get(rootfs, "diff_ids");

	if (strcmp(str(rootfs, "type"), "layers") != 0 || (ids && !json_is_array(ids)))
		return err_set(err, EBADMSG, "config: rootfs is not a list of layers");
	if (json_array_size(ids) != m->nlayers)
		return err_set(err, EBADMSG, "config: %zu diff_ids for %zu layers",
			       json_array_size(ids), m->nlayers);
	for (size_t i = 0; i < m->nlayers; i++) {
		const char *id = json_string_value(json_array_get(ids, i));

		if (digest_parse(id ? id : "", &m->layers[i].diff_id, err) < 0)
			return err_wrap(err, -EBADMSG, "config: diff_id of layer %zu", i);
	}
	*created = strptime(str(root, "created"), "%Y-%m-%dT%H:%M:%S", &tm) ? timegm(&tm) : 0;
	return 0;
}
