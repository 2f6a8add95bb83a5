/* meta.c - struct snapshot_meta to and from JSON. */
#include "runner/snapshot/meta.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "runner/vm/vm.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/hex.h"
#include "smfs/base/num.h"

#define META_ARCH      "x86_64"
#define REQUIRED_DISKS "disks" /* there are files with disks' content */
#define CHECKSUM_ZERO  "0000000000000000"
/* The text's end, from the checksum's first digit: digits, quote, newline, brace, newline. */
#define CHECKSUM_TAIL "\"\n}\n"

static void json_release(json_t **j)
{
	json_decref(*j);
}
#define cleanup_json cleanup_with(json_release)

static uint64_t checksum_of(const char *text, size_t len, size_t at)
{
	XXH3_state_t *state = XXH3_createState();
	uint64_t sum = 0;

	if (!state)
		return 0;
	XXH3_64bits_reset(state);
	XXH3_64bits_update(state, text, at);
	XXH3_64bits_update(state, CHECKSUM_ZERO, 16);
	XXH3_64bits_update(state, text + at + 16, len - at - 16);
	sum = XXH3_64bits_digest(state);
	XXH3_freeState(state);
	return sum;
}

/* ---- encoding ----------------------------------------------------------------------------- */

/* What a reader must know of: one that does not is not to restore a machine without its disk. */
static json_t *encode_required(const struct snapshot_meta *m)
{
	json_t *a = json_array();

	for (unsigned i = 0; i < m->ndevices; i++)
		if (m->device[i].content) {
			json_array_append_new(a, json_string(REQUIRED_DISKS));
			break;
		}
	return a;
}

/* An empty string stands for "not known" and is written as null. */
static json_t *string_or_null(const char *s)
{
	return s[0] ? json_string(s) : json_null();
}

static json_t *u64_json(uint64_t v)
{
	return json_integer((json_int_t)v);
}

static json_t *hex_json(uint64_t v)
{
	char s[20];

	snprintf(s, sizeof(s), "0x%" PRIx64, v);
	return json_string(s);
}

static json_t *encode_cpu(const struct snapshot_cpu *cpu)
{
	json_t *words = json_array();

	for (unsigned i = 0; i < cpu->nwords; i++) {
		const struct cpu_word *w = &cpu->word[i];
		char s[48];

		snprintf(s, sizeof(s), "%08x.%u.e%cx=%08x", w->leaf, w->subleaf, "abcd"[w->reg & 3],
			 w -> value);
		json_array_append_new(words, json_string(s));
	}
	return json_pack("{s:s, s:o, s:o, s:o, s:o, s:o}", "vendor", cpu->vendor, "family",
			 u64_json(cpu->family), "model", u64_json(cpu->model), "stepping",
			 u64_json(cpu->stepping), "microcode", hex_json(cpu->microcode), "features",
			 words);
}

static json_t *encode_regions(const struct snapshot_meta *m)
{
	json_t *a = json_array();

	for (unsigned i = 0; i < m->nregions; i++)
		json_array_append_new(a, json_pack("{s:o, s:o, s:o, s:o}", "gpa",
						   u64_json(m->region[i].gpa), "size",
						   u64_json(m->region[i].size), "offset",
						   u64_json(m->region[i].offset), "used",
						   u64_json(m->region[i].used)));
	return a;
}

static json_t *encode_devices(const struct snapshot_meta *m)
{
	json_t *a = json_array();

	for (unsigned i = 0; i < m->ndevices; i++) {
		const struct meta_device *d = &m->device[i];

		json_array_append_new(
			a, json_pack("{s:s, s:s, s:i, s:o, s:o, s:i, s:o, s:b, s:o*}", "id", d->id,
				     "type", d->type, "version", d->version, "base",
				     hex_json(d->base), "size", u64_json(d->size), "gsi", d->gsi,
				     "source", string_or_null(d->source), "readonly", d->readonly,
				     "content", d->content ? u64_json(d->content) : NULL));
	}
	return a;
}

static json_t *encode_image(const struct snapshot_meta *m)
{
	if (!m->has_image)
		return json_null();
	return json_pack("{s:o, s:s, s:s, s:o}", "ref", string_or_null(m->image.ref), "rootfs",
			 m->image.rootfs, "digest", m->image.digest, "size",
			 u64_json(m->image.size));
}

int meta_encode(const struct snapshot_meta *m, char **out, size_t *len, struct err *err)
{
	char uuid[33], xxh3[17], sum[17];
	cleanup_json json_t *j = NULL;
	cleanup_free char *body = NULL;
	char *text;
	size_t n, at;

	hex_encode(m->uuid, sizeof(m->uuid), uuid);
	snprintf(xxh3, sizeof(xxh3), "%016" PRIx64, m->vcpu_xxh3);
	j = json_pack(
		"{s:i, s:o, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:{s:o, s:o}, s:o, s:b, s:o, "
		"s:{s:o, s:s}, s:{s:o, s:s}, s:s}",
		"format", META_FORMAT, "required", encode_required(m), "arch", META_ARCH,
		"wall_clock_ns", json_integer(m->wall_clock_ns), "cpu", encode_cpu(&m->cpu),
		"vcpus", u64_json(m->vcpus), "tsc_khz", u64_json(m->tsc_khz), "ram_bytes",
		u64_json(m->ram_bytes), "ram_regions", encode_regions(m), "image", encode_image(m),
		"kernel", "path", string_or_null(m->kernel.path), "sha256",
		string_or_null(m->kernel.sha256), "parent", string_or_null(m->parent), "ws",
		m->has_ws, "devices", encode_devices(m), "generation", "number",
		u64_json(m->generation), "uuid", uuid, "vcpu", "bytes", u64_json(m->vcpu_bytes),
		"xxh3", xxh3, "checksum", CHECKSUM_ZERO);
	/* Fails on memory, and on a string that is not UTF-8 (a path may be). */
	body = j ? json_dumps(j, JSON_INDENT(2)) : NULL;
	if (!body)
		return err_set(
			err, EINVAL,
			"snapshot meta: cannot be written as JSON (a path that is not UTF-8?)");
	n = strlen(body) + 1;
	if (n > META_FILE_MAX)
		return err_set(err, E2BIG, "snapshot meta: %zu bytes, above the limit of %u", n,
			       META_FILE_MAX);
	text = malloc(n + 1);
	if (!text)
		return err_set(err, ENOMEM, "snapshot meta: out of memory");
	memcpy(text, body, n - 1);
	text[n - 1] = '\n';
	text[n] = 0;
	at = n - strlen(CHECKSUM_TAIL) - 16;
	snprintf(sum, sizeof(sum), "%016" PRIx64, checksum_of(text, n, at));
	memcpy(text + at, sum, 16);
	*out = text;
	*len = n;
	return 0;
}

/* ---- decoding ----------------------------------------------------------------------------- */

/*
 * Getters with one error for all of "missing", "wrong type" and "out of bounds". `where` is the
 * object's name for the message.
 */
static int bad(struct err *err, const char *where, const char *key)
{
	return err_set(err, EBADMSG, "%s%s%s: missing, of the wrong type, or out of range", where,
		       *where ? "." : "", key);
}

static int get_uint(const json_t *o, const char *where, const char *key, uint64_t max,
		    uint64_t *out, struct err *err)
{
	const json_t *v = json_object_get(o, key);
	json_int_t i = json_integer_value(v);

	if (!json_is_integer(v) || i < 0 || (uint64_t)i > max)
		return bad(err, where, key);
	*out = (uint64_t)i;
	return 0;
}

static int get_u32_of(const json_t *o, const char *where, const char *key, uint32_t *out,
		      struct err *err)
{
	uint64_t v = 0;
	int ret = get_uint(o, where, key, UINT32_MAX, &v, err);

	*out = (uint32_t)v;
	return ret;
}

static int get_hex(const json_t *o, const char *where, const char *key, uint64_t *out,
		   struct err *err)
{
	const char *s = json_string_value(json_object_get(o, key));
	char *end;

	if (!s || strncmp(s, "0x", 2) != 0 || !s[2] || strlen(s) > 18 ||
	    strspn(s + 2, "0123456789abcdef") != strlen(s + 2))
		return bad(err, where, key);
	*out = strtoull(s, &end, 16);
	return 0;
}

/* `null_ok`: null is the empty string. */
static int get_string(const json_t *o, const char *where, const char *key, bool null_ok, char *out,
		      size_t size, struct err *err)
{
	const json_t *v = json_object_get(o, key);
	const char *s = json_string_value(v);
	size_t n = json_string_length(v);

	out[0] = 0;
	if (null_ok && json_is_null(v))
		return 0;
	/* A NUL inside the string would cut it short unseen. */
	if (!s || n >= size || strlen(s) != n || (n == 0 && !null_ok))
		return bad(err, where, key);
	memcpy(out, s, n + 1);
	return 0;
}

static int get_digits(const json_t *o, const char *where, const char *key, void *out, size_t n,
		      struct err *err)
{
	const json_t *v = json_object_get(o, key);

	if (!json_is_string(v) || !hex_decode(json_string_value(v), json_string_length(v), out, n))
		return bad(err, where, key);
	return 0;
}

static int get_object(const json_t *o, const char *key, const json_t **out, struct err *err)
{
	*out = json_object_get(o, key);
	return json_is_object(*out) ? 0 : bad(err, "", key);
}

static uint32_t be32(const uint8_t b[4])
{
	return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

/* "LLLLLLLL.S.eRx=VVVVVVVV": hexadecimal leaf, decimal subleaf, register, hexadecimal value. */
static int decode_word(const char *s, struct cpu_word *w)
{
	uint8_t leaf[4], value[4];
	uint64_t subleaf = 0;
	const char *p;

	if (!s || strlen(s) < 9 || !hex_decode(s, 8, leaf, 4) || s[8] != '.')
		return -EINVAL;
	for (p = s + 9; *p >= '0' && *p <= '9' && subleaf <= UINT32_MAX; p++)
		subleaf = subleaf * 10 + (uint64_t)(*p - '0');
	if (p == s + 9 || subleaf > UINT32_MAX || strlen(p) != 13 || p[0] != '.' || p[1] != 'e' ||
	    p[2] < 'a' || p[2] > 'd' || p[3] != 'x' || p[4] != '=' ||
	    !hex_decode(p + 5, 8, value, 4))
		return -EINVAL;
	*w = (struct cpu_word){.leaf = be32(leaf),
			       .subleaf = (uint32_t)subleaf,
			       .reg = (uint8_t)(p[2] - 'a'),
			       .value = be32(value)};
	return 0;
}

static int decode_cpu(const json_t *root, struct snapshot_cpu *cpu, struct err *err)
{
	const json_t *o, *words;
	int ret;

	if ((ret = get_object(root, "cpu", &o, err)) < 0 ||
	    (ret = get_string(o, "cpu", "vendor", false, cpu->vendor, sizeof(cpu->vendor), err)) <
		    0 ||
	    (ret = get_u32_of(o, "cpu", "family", &cpu->family, err)) < 0 ||
	    (ret = get_u32_of(o, "cpu", "model", &cpu->model, err)) < 0 ||
	    (ret = get_u32_of(o, "cpu", "stepping", &cpu->stepping, err)) < 0 ||
	    (ret = get_hex(o, "cpu", "microcode", &cpu->microcode, err)) < 0)
		return ret;
	words = json_object_get(o, "features");
	if (!json_is_array(words) || json_array_size(words) > CPU_WORDS_MAX)
		return bad(err, "cpu", "features");
	cpu->nwords = (unsigned)json_array_size(words);
	for (unsigned i = 0; i < cpu->nwords; i++)
		if (decode_word(json_string_value(json_array_get(words, i)), &cpu->word[i]) < 0)
			return bad(err, "cpu", "features");
	return 0;
}

/* Regions ascend, do not overlap, and tile `ram` from its first byte to its last. */
static int decode_regions(const json_t *root, struct snapshot_meta *m, struct err *err)
{
	const json_t *a = json_object_get(root, "ram_regions");
	uint64_t file = 0, gpa = 0;
	int ret;

	if (!json_is_array(a) || json_array_size(a) < 1 || json_array_size(a) > MEMORY_MAX_REGIONS)
		return bad(err, "", "ram_regions");
	m->nregions = (unsigned)json_array_size(a);
	for (unsigned i = 0; i < m->nregions; i++) {
		const json_t *o = json_array_get(a, i);
		struct meta_region *r = &m->region[i];
		const uint64_t top = 1ull << 52;

		if ((ret = get_uint(o, "ram_regions", "gpa", top, &r->gpa, err)) < 0 ||
		    (ret = get_uint(o, "ram_regions", "size", MEMORY_RAM_MAX, &r->size, err)) < 0 ||
		    (ret = get_uint(o, "ram_regions", "offset", MEMORY_RAM_MAX, &r->offset, err)) <
			    0 ||
		    (ret = get_uint(o, "ram_regions", "used", r->size, &r->used, err)) < 0)
			return ret;
		if (r->size == 0 || (r->gpa | r->size) & 4095 || r->gpa < gpa || r->offset != file)
			return bad(err, "", "ram_regions");
		gpa = r->gpa + r->size;
		file += r->size;
	}
	if (file != m->ram_bytes)
		return err_set(err, EBADMSG,
			       "ram_regions: cover %" PRIu64 " bytes, ram_bytes says %" PRIu64,
			       file, m->ram_bytes);
	return 0;
}

bool meta_content_name(const char *id)
{
	return strncmp(id, "disk", 4) == 0 &&
	       strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789-") == strlen(id);
}

static int decode_device(const json_t *o, struct meta_device *d, struct err *err)
{
	const json_t *gsi = json_object_get(o, "gsi"), *ro = json_object_get(o, "readonly");
	uint64_t version = 0;
	int ret;

	if ((ret = get_string(o, "devices", "id", false, d->id, sizeof(d->id), err)) < 0 ||
	    (ret = get_string(o, "devices", "type", false, d->type, sizeof(d->type), err)) < 0 ||
	    (ret = get_uint(o, "devices", "version", UINT16_MAX, &version, err)) < 0 ||
	    (ret = get_hex(o, "devices", "base", &d->base, err)) < 0 ||
	    (ret = get_uint(o, "devices", "size", INT64_MAX, &d->size, err)) < 0 ||
	    (ret = get_string(o, "devices", "source", true, d->source, sizeof(d->source), err)) < 0)
		return ret;
	d->version = (uint16_t)version;
	if (!json_is_integer(gsi) || json_integer_value(gsi) < -1 || json_integer_value(gsi) > 255)
		return bad(err, "devices", "gsi");
	d->gsi = (int)json_integer_value(gsi);
	if (!json_is_boolean(ro))
		return bad(err, "devices", "readonly");
	d->readonly = json_is_true(ro);
	if (!json_object_get(o, "content"))
		return 0;
	if ((ret = get_uint(o, "devices", "content", INT64_MAX, &d->content, err)) < 0)
		return ret;
	return d->content && !d->readonly && meta_content_name(d->id)
		       ? 0
		       : bad(err, "devices", "content");
}

static int decode_devices(const json_t *root, struct snapshot_meta *m, struct err *err)
{
	const json_t *a = json_object_get(root, "devices");
	int ret;

	if (!json_is_array(a) || json_array_size(a) > META_DEVICES_MAX)
		return bad(err, "", "devices");
	m->ndevices = (unsigned)json_array_size(a);
	for (unsigned i = 0; i < m->ndevices; i++) {
		if ((ret = decode_device(json_array_get(a, i), &m->device[i], err)) < 0)
			return ret;
		for (unsigned k = 0; k < i; k++)
			if (strcmp(m->device[k].id, m->device[i].id) == 0)
				return err_set(err, EBADMSG, "devices: id %s appears twice",
					       m->device[i].id);
	}
	return 0;
}

/* A path a snapshot names is opened below the mount: it must not lead out of it. */
static bool path_stays_below(const char *p)
{
	if (*p == '/')
		return false;
	for (;;) {
		size_t n = strcspn(p, "/");

		if (n == 0 || (n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
			return false;
		if (!p[n])
			return true;
		p += n + 1;
	}
}

/* Snapshots made before there were working sets do not say that they have none. */
static int decode_ws(const json_t *root, struct snapshot_meta *m, struct err *err)
{
	const json_t *v = json_object_get(root, "ws");

	if (v && !json_is_boolean(v))
		return bad(err, "", "ws");
	m->has_ws = json_is_true(v);
	return 0;
}

static int decode_image(const json_t *root, struct snapshot_meta *m, struct err *err)
{
	const json_t *o = json_object_get(root, "image");
	int ret;

	m->has_image = false;
	if (json_is_null(o))
		return 0;
	if ((ret = get_object(root, "image", &o, err)) < 0 ||
	    (ret = get_string(o, "image", "ref", true, m->image.ref, sizeof(m->image.ref), err)) <
		    0 ||
	    (ret = get_string(o, "image", "rootfs", false, m->image.rootfs, sizeof(m->image.rootfs),
			      err)) < 0 ||
	    (ret = get_string(o, "image", "digest", false, m->image.digest, sizeof(m->image.digest),
			      err)) < 0 ||
	    (ret = get_uint(o, "image", "size", INT64_MAX, &m->image.size, err)) < 0)
		return ret;
	if (!path_stays_below(m->image.rootfs))
		return err_set(err, EBADMSG, "image.rootfs: \"%s\" leads out of the mount",
			       m->image.rootfs);
	m->has_image = true;
	return 0;
}

static int check_header(const json_t *root, struct err *err)
{
	const json_t *required = json_object_get(root, "required");
	char arch[32];
	uint64_t format = 0;
	int ret;

	if ((ret = get_uint(root, "", "format", UINT32_MAX, &format, err)) < 0)
		return ret;
	if (format != META_FORMAT)
		return err_set(err, ENOTSUP, "snapshot format %" PRIu64 ", this program reads %d",
			       format, META_FORMAT);
	if (!json_is_array(required))
		return bad(err, "", "required");
	for (size_t i = 0; i < json_array_size(required); i++) {
		const char *s = json_string_value(json_array_get(required, i));

		if (!s || strcmp(s, REQUIRED_DISKS) != 0)
			return err_set(
				err, ENOTSUP,
				"snapshot requires feature \"%s\", unknown here; use a newer "
				"version",
				s ? s : "?");
	}
	if ((ret = get_string(root, "", "arch", false, arch, sizeof(arch), err)) < 0)
		return ret;
	if (strcmp(arch, META_ARCH) != 0)
		return err_set(err, ENOTSUP, "snapshot of an %s machine, this host is " META_ARCH,
			       arch);
	return 0;
}

static int decode_root(const json_t *root, struct snapshot_meta *m, struct err *err)
{
	const json_t *o, *wall = json_object_get(root, "wall_clock_ns");
	uint64_t vcpus = 0;
	uint8_t sum[8];
	int ret;

	if ((ret = check_header(root, err)) < 0)
		return ret;
	if (!json_is_integer(wall) || json_integer_value(wall) < 0)
		return bad(err, "", "wall_clock_ns");
	m->wall_clock_ns = json_integer_value(wall);
	if ((ret = decode_cpu(root, &m->cpu, err)) < 0 ||
	    (ret = get_uint(root, "", "vcpus", META_VCPUS_MAX, &vcpus, err)) < 0 ||
	    (ret = get_u32_of(root, "", "tsc_khz", &m->tsc_khz, err)) < 0 ||
	    (ret = get_uint(root, "", "ram_bytes", MEMORY_RAM_MAX, &m->ram_bytes, err)) < 0 ||
	    (ret = decode_regions(root, m, err)) < 0 || (ret = decode_image(root, m, err)) < 0 ||
	    (ret = decode_ws(root, m, err)) < 0 ||
	    (ret = get_string(root, "", "parent", true, m->parent, sizeof(m->parent), err)) < 0 ||
	    (ret = decode_devices(root, m, err)) < 0)
		return ret;
	if (vcpus < 1)
		return bad(err, "", "vcpus");
	m->vcpus = (unsigned)vcpus;

	if ((ret = get_object(root, "kernel", &o, err)) < 0 ||
	    (ret = get_string(o, "kernel", "path", true, m->kernel.path, sizeof(m->kernel.path),
			      err)) < 0 ||
	    (ret = get_string(o, "kernel", "sha256", true, m->kernel.sha256,
			      sizeof(m->kernel.sha256), err)) < 0)
		return ret;
	if ((ret = get_object(root, "generation", &o, err)) < 0 ||
	    (ret = get_uint(o, "generation", "number", INT64_MAX - 1, &m->generation, err)) < 0 ||
	    (ret = get_digits(o, "generation", "uuid", m->uuid, sizeof(m->uuid), err)) < 0)
		return ret;
	if ((ret = get_object(root, "vcpu", &o, err)) < 0 ||
	    (ret = get_uint(o, "vcpu", "bytes", INT64_MAX, &m->vcpu_bytes, err)) < 0 ||
	    (ret = get_digits(o, "vcpu", "xxh3", sum, sizeof(sum), err)) < 0)
		return ret;
	m->vcpu_xxh3 = 0;
	for (size_t i = 0; i < sizeof(sum); i++)
		m->vcpu_xxh3 = m->vcpu_xxh3 << 8 | sum[i];
	return 0;
}

static int verify_checksum(const char *text, size_t len, struct err *err)
{
	const size_t tail = strlen(CHECKSUM_TAIL);
	const char key[] = "\"checksum\": \"";
	const size_t need = sizeof(key) - 1 + 16 + tail;
	size_t at;
	char sum[17];

	at = len >= need ? len - tail - 16 : 0;
	if (!at || memcmp(text + at - (sizeof(key) - 1), key, sizeof(key) - 1) != 0 ||
	    memcmp(text + len - tail, CHECKSUM_TAIL, tail) != 0)
		return err_set(err, EBADMSG, "truncated or damaged: does not end in a checksum");
	snprintf(sum, sizeof(sum), "%016" PRIx64, checksum_of(text, len, at));
	if (memcmp(text + at, sum, 16) != 0)
		return err_set(err, EBADMSG, "damaged: checksum does not match");
	return 0;
}

int meta_decode(const char *text, size_t len, struct snapshot_meta *m, struct err *err)
{
	cleanup_json json_t *root = NULL;
	json_error_t jerr;
	int ret;

	memset(m, 0, sizeof(*m));
	if (len > META_FILE_MAX)
		return err_set(err, EBADMSG, "%zu bytes, above the limit of %u", len,
			       META_FILE_MAX);
	if ((ret = verify_checksum(text, len, err)) < 0)
		return ret;
	root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &jerr);
	if (!root)
		return err_set(err, EBADMSG, "not JSON: line %d: %s", jerr.line, jerr.text);
	return decode_root(root, m, err);
}

bool meta_text(char *out, size_t size, const char *text)
{
	const size_t n = strlen(text);

	if (n >= size)
		return false;
	memcpy(out, text, n + 1);
	return true;
}
