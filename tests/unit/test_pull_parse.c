/* What smvm-pull parses before it trusts anything: references, digests, challenges, manifests. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pull/challenge.h"
#include "pull/credentials.h"
#include "pull/manifest.h"
#include "pull/ref.h"
#include "smfs/base/num.h"

#define HEX64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void references_complete_as_docker_does(void **state)
{
	static const struct {
		const char *text, *registry, *repository, *tag, *name;
	} good[] = {
		{"alpine", "docker.io", "library/alpine", "latest",
		 "docker.io/library/alpine:latest"},
		{"alpine:3.20", "docker.io", "library/alpine", "3.20",
		 "docker.io/library/alpine:3.20"},
		{"user/app", "docker.io", "user/app", "latest", "docker.io/user/app:latest"},
		{"index.docker.io/user/app", "docker.io", "user/app", "latest",
		 "docker.io/user/app:latest"},
		{"docker.io/alpine:1", "docker.io", "library/alpine", "1",
		 "docker.io/library/alpine:1"},
		{"docker://quay.io/a/b/c:x", "quay.io", "a/b/c", "x", "quay.io/a/b/c:x"},
		{"localhost/x", "localhost", "x", "latest", "localhost/x:latest"},
		{"127.0.0.1:5000/x:Y_.-1", "127.0.0.1:5000", "x", "Y_.-1",
		 "127.0.0.1:5000/x:Y_.-1"},
		{"r.example/a__b/c-d---e.f:1", "r.example", "a__b/c-d---e.f", "1",
		 "r.example/a__b/c-d---e.f:1"},
		{"r.example/x@sha256:" HEX64, "r.example", "x", "", "r.example/x:sha256-" HEX64},
		{"r.example/x:t@sha256:" HEX64, "r.example", "x", "t", "r.example/x:t"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		char name[SMFS_REF_MAX + 1];
		struct err err = ERR_INIT;
		struct ref r;

		assert_int_equal(ref_parse(good[i].text, &r, &err), 0);
		assert_string_equal(r.registry, good[i].registry);
		assert_string_equal(r.repository, good[i].repository);
		assert_string_equal(r.tag, good[i].tag);
		assert_int_equal(ref_image_name(&r, name, &err), 0);
		assert_string_equal(name, good[i].name);
		assert_int_equal(r.has_digest, strchr(good[i].text, '@') != NULL);
	}
}

static void wrong_references_are_refused(void **state)
{
	static const char *const bad[] = {
		"",
		":",
		"/",
		"x:",
		"UPPER",
		"a//b",
		"a/",
		"/a",
		"a:b:c",
		"a..b",
		"a._b",
		"a___b",
		"-a",
		"a-",
		"r.example/",
		"r.example:/x",
		"r.example:0/x",
		"r.example:99999/x",
		"x@sha256:1",
		"x@md5:" HEX64,
		"x@" HEX64,
		"http://r/x",
		"x:.tag",
		"x: y",
		"r.e:5x/x",
		"..",
		"../x",
		"r.example/../x",
		"a@b@sha256:" HEX64,
		"x@sha256:" HEX64 "0",
		"r..example/x",
		"oci:",
		"oci::x",
		"oci:dir:.bad",
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct err err = ERR_INIT;
		struct ref r;

		if (ref_parse(bad[i], &r, &err) != -EINVAL)
			fail_msg("accepted: %s", bad[i]);
		assert_non_null(strchr(err.msg, ';') ? err.msg : strstr(err.msg, "64 lower-case"));
	}
	struct err err = ERR_INIT;
	struct ref r;

	assert_int_equal(ref_parse("docker-archive:x.tar", &r, &err), -ENOTSUP);
	char *huge = malloc(100001);

	memset(huge, 'a', 100000);
	huge[100000] = '\0';
	assert_int_equal(ref_parse(huge, &r, &err), -EINVAL);
	free(huge);
}

static void layouts_and_loopback(void **state)
{
	char name[SMFS_REF_MAX + 1];
	struct err err = ERR_INIT;
	struct ref r;

	assert_int_equal(ref_parse("oci:/no/such/My-Image:v1", &r, &err), 0);
	assert_int_equal(r.kind, REF_LAYOUT);
	assert_string_equal(r.dir, "/no/such/My-Image");
	assert_string_equal(r.tag, "v1");
	assert_int_equal(ref_image_name(&r, name, &err), 0);
	assert_string_equal(name, "localhost/my-image:v1");
	assert_int_equal(ref_parse("oci:a:b/c", &r, &err), 0);
	assert_string_equal(r.dir, "a:b/c");

	static const struct {
		const char *text;
		bool loopback;
	} hosts[] = {
		{"localhost/x", true},
		{"localhost:1/x", true},
		{"127.0.0.1/x", true},
		{"127.9.9.9:5000/x", true},
		{"[::1]:5000/x", true},
		{"127.0.0.1.example.com/x", false},
		{"localhost.example/x", false},
		{"128.0.0.1/x", false},
		{"x", false},
		{"127.example.com:1/x", false},
	};

	for (size_t i = 0; i < ARRAY_SIZE(hosts); i++) {
		assert_int_equal(ref_parse(hosts[i].text, &r, &err), 0);
		if (ref_is_loopback(&r) != hosts[i].loopback)
			fail_msg("%s", hosts[i].text);
	}
}

static void challenges_are_read(void **state)
{
	struct err err = ERR_INIT;
	struct challenge c;

	assert_int_equal(
		challenge_parse("Bearer realm=\"https://auth.example/token\",service=\"reg\","
				"scope=\"repository:a/b:pull,push\"",
				&c, &err),
		0);
	assert_int_equal(c.scheme, CHALLENGE_BEARER);
	assert_string_equal(c.realm, "https://auth.example/token");
	assert_string_equal(c.service, "reg");
	assert_string_equal(c.scope, "repository:a/b:pull,push");

	assert_int_equal(challenge_parse("BASIC realm=\"a \\\"quoted\\\" one\"", &c, &err), 0);
	assert_int_equal(c.scheme, CHALLENGE_BASIC);
	assert_string_equal(c.realm, "a \"quoted\" one");

	assert_int_equal(
		challenge_parse("Basic realm=x, Bearer realm=https://y/t?a=b , error=invalid_token",
				&c, &err),
		0);
	assert_int_equal(c.scheme, CHALLENGE_BEARER);
	assert_string_equal(c.realm, "https://y/t?a=b");
	assert_string_equal(c.error, "invalid_token");

	assert_int_equal(
		challenge_parse(
			"Negotiate dG9rZW4=, Digest realm=\"d\", nonce=\"n\", Basic realm=\"b\"",
			&c, &err),
		0);
	assert_int_equal(c.scheme, CHALLENGE_BASIC);
	assert_string_equal(c.realm, "b");

	assert_int_equal(challenge_parse("", &c, &err), 0);
	assert_int_equal(c.scheme, CHALLENGE_NONE);
	assert_int_equal(challenge_parse("Negotiate", &c, &err), 0);
	assert_int_equal(c.scheme, CHALLENGE_NONE);
}

static void malformed_challenges_are_refused(void **state)
{
	static const char *const bad[] = {"Bearer service=\"x\"", "Bearer realm=\"open",
					  "Bearer realm=",	  "=x",
					  "Bearer realm=\"a\"\"", "\"",
					  "Bearer realm=\"\x01\""};
	struct challenge c;
	struct err err;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (challenge_parse(bad[i], &c, &err) != -EPROTO)
			fail_msg("accepted: %s", bad[i]);
	char *huge = malloc(10000);

	memset(huge, 'a', 9999);
	memcpy(huge, "Bearer realm=\"", 14);
	huge[9998] = '"';
	huge[9999] = '\0';
	assert_int_equal(challenge_parse(huge, &c, &err), -EPROTO);
	free(huge);
}

static void credentials_are_split_and_joined(void **state)
{
	struct credentials c;
	struct err err;

	assert_int_equal(credentials_parse("user:pa:ss", &c, &err), 0);
	assert_string_equal(c.user, "user");
	assert_string_equal(c.password, "pa:ss");
	char *basic = credentials_basic(&c);

	assert_string_equal(basic, "Basic dXNlcjpwYTpzcw==");
	free(basic);
	credentials_free(&c);
	assert_int_equal(credentials_parse("user", &c, &err), -EINVAL);
	assert_int_equal(credentials_parse(":pass", &c, &err), -EINVAL);
}

/* ---- manifests ---- */

#define DESC(type, size) \
	"{\"mediaType\":\"" type "\",\"digest\":\"sha256:" HEX64 "\",\"size\":" size "}"
#define LAYER_GZ "application/vnd.oci.image.layer.v1.tar+gzip"

static int is_index(const char *body, const char *type, bool *out, struct err *err)
{
	return manifest_is_index(body, strlen(body), type, out, err);
}

static void types_must_agree(void **state)
{
	struct err err = ERR_INIT;
	bool index;

	assert_int_equal(
		is_index("{\"schemaVersion\":2,\"manifests\":[]}", MT_OCI_INDEX, &index, &err), 0);
	assert_true(index);
	assert_int_equal(is_index("{\"schemaVersion\":2,\"manifests\":[]}", "", &index, &err), 0);
	assert_true(index);
	assert_int_equal(is_index("{\"schemaVersion\":2,\"config\":{},\"layers\":[]}",
				  MT_DOCKER_MANIFEST, &index, &err),
			 0);
	assert_false(index);

	static const struct {
		const char *body, *type;
		int code;
	} bad[] = {
		{"{\"schemaVersion\":1}", "", -ENOTSUP},
		{"{\"schemaVersion\":3,\"layers\":[]}", "", -EBADMSG},
		{"{\"layers\":[]}", "", -EBADMSG},
		{"{\"schemaVersion\":2}", "", -EBADMSG},
		{"{\"schemaVersion\":2,\"layers\":[],\"manifests\":[]}", "", -EBADMSG},
		{"{\"schemaVersion\":2,\"manifests\":[]}", MT_OCI_MANIFEST, -EBADMSG},
		{"{\"schemaVersion\":2,\"layers\":[]}", MT_DOCKER_LIST, -EBADMSG},
		{"{\"schemaVersion\":2,\"layers\":[],\"mediaType\":\"" MT_OCI_MANIFEST "\"}",
		 MT_DOCKER_MANIFEST, -EBADMSG},
		{"{\"schemaVersion\":2,\"layers\":[]}", "application/octet-stream", -ENOTSUP},
		{"[]", "", -EBADMSG},
		{"", "", -EBADMSG},
		{"{\"schemaVersion\":2,\"layers\":[]", "", -EBADMSG},
		{"{\"schemaVersion\":2,\"schemaVersion\":2,\"layers\":[]}", "", -EBADMSG},
		{"{\"schemaVersion\":2,\"layers\":[]}x", "", -EBADMSG},
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (is_index(bad[i].body, bad[i].type, &index, &err) != bad[i].code)
			fail_msg("%zu: %s", i, bad[i].body);
}

static void the_platform_is_chosen(void **state)
{
#define ENTRY(size, platform)                                                                   \
	"{\"mediaType\":\"" MT_OCI_MANIFEST "\",\"digest\":\"sha256:" HEX64 "\",\"size\":" size \
	",\"platform\":{" platform "}}"
	static const char body[] = "{\"manifests\":[" ENTRY(
		"1",
		"\"os\":\"unknown\",\"architecture\":"
		"\"unknown\"") "," ENTRY("2",
					 "\"os\":"
					 "\"linux\","
					 "\"architecture"
					 "\":\"arm64\","
					 "\"variant\":"
					 "\"v8\"") "," ENTRY("3",
							     "\"os\":\"linux\",\"architecture\":\"amd64\",\"variant\":"
							     "\"v3\"") "," ENTRY("4",
										 "\"os\":\"linux\",\"architecture\":"
										 "\"amd64\"") "," ENTRY("5",
													"\"os\":"
													"\"windows\","
													"\"architecture\":"
													"\"amd64\"") "]}";
	static const struct {
		const char *platform;
		uint64_t size; /* tells the entry */
	} want[] = {{"linux/amd64", 4},
		    {"linux/amd64/v3", 3},
		    {"linux/arm64", 2},
		    {"windows/amd64", 5},
		    {"linux/s390x", 0}};
	struct err err = ERR_INIT;
	struct descriptor d;
	struct platform p;

	for (size_t i = 0; i < ARRAY_SIZE(want); i++) {
		assert_int_equal(platform_parse(want[i].platform, &p, &err), 0);
		int r = index_choose(body, strlen(body), &p, &d, &err);

		assert_int_equal(r, want[i].size ? 0 : -ENOENT);
		if (r == 0)
			assert_int_equal(d.size, want[i].size);
	}
	assert_non_null(strstr(err.msg, "linux/arm64/v8"));
	static const char *const bad[] = {"",
					  "linux",
					  "linux/",
					  "/amd64",
					  "linux/amd64/",
					  "linux/amd64/v1/x",
					  "linux/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (platform_parse(bad[i], &p, &err) != -EINVAL)
			fail_msg("accepted: %s", bad[i]);
}

static void manifests_are_bounded(void **state)
{
	static const char good[] =
		"{\"config\":" DESC(MT_OCI_CONFIG, "2") ",\"layers\":[" DESC(LAYER_GZ, "10") "]}";
	static const char *const bad[] = {
		"{}",
		"{\"config\":{},\"layers\":[]}",
		"{\"config\":" DESC(MT_OCI_CONFIG, "2") "}",
		"{\"config\":" DESC(MT_OCI_CONFIG, "2") ",\"layers\":{}}",
		"{\"config\":" DESC(MT_OCI_CONFIG, "2") ",\"layers\":[1]}",
		"{\"config\":" DESC(MT_OCI_CONFIG, "-2") ",\"layers\":[]}",
		"{\"config\":" DESC(MT_OCI_CONFIG, "2.5") ",\"layers\":[]}",
		"{\"config\":" DESC(MT_OCI_CONFIG, "99999999999999999999") ",\"layers\":[]}",
		"{\"config\":" DESC(MT_OCI_CONFIG, "999999999") ",\"layers\":[]}",
		"{\"config\":" DESC("text/plain", "2") ",\"layers\":[]}",
		"{\"config\":" DESC(MT_OCI_CONFIG, "2") ",\"layers\":[" DESC("text/plain",
									     "1") "]}",
		"{\"config\":{\"mediaType\":\"" MT_OCI_CONFIG
		"\",\"digest\":\"sha256:ABC\",\"size\":1},\"layers\":[]}",
	};
	struct err err = ERR_INIT;
	struct manifest m;

	assert_int_equal(manifest_parse(good, strlen(good), &m, &err), 0);
	assert_int_equal(m.nlayers, 1);
	assert_int_equal(m.layers[0].compression, LAYER_GZIP);
	assert_int_equal(m.layers[0].d.size, 10);

	static const char config[] =
		"{\"os\":\"linux\",\"architecture\":\"amd64\",\"created\":\"2001-09-09T01:46:40."
		"5Z\","
		"\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:" HEX64 "\"]}}";
	struct platform p;
	int64_t created;

	assert_int_equal(platform_parse("linux/amd64", &p, &err), 0);
	assert_int_equal(config_apply(config, strlen(config), &p, &m, &created, &err), 0);
	assert_int_equal(created, 1000000000);
	assert_memory_equal(&m.layers[0].diff_id, &m.layers[0].d.digest, sizeof(struct digest));
	assert_int_equal(platform_parse("linux/arm64", &p, &err), 0);
	assert_int_equal(config_apply(config, strlen(config), &p, &m, &created, &err), -ENOENT);
	manifest_free(&m);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (manifest_parse(bad[i], strlen(bad[i]), &m, &err) >= 0)
			fail_msg("accepted: %s", bad[i]);
}

/* Every prefix and every single changed byte of a good document: an answer, never a crash. */
static void damaged_json_is_survived(void **state)
{
	static const char good[] =
		"{\"schemaVersion\":2,\"config\":" DESC(MT_OCI_CONFIG, "2") ",\"layers\":[" DESC(
			LAYER_GZ, "10") "," DESC(LAYER_GZ, "20") "]}";
	size_t len = strlen(good), accepted = 0;
	char *copy = malloc(len);
	struct manifest m;
	bool index;

	for (size_t n = 0; n < len; n++) {
		assert_true(manifest_parse(good, n, &m, NULL) < 0);
		assert_true(manifest_is_index(good, n, "", &index, NULL) < 0);
	}
	for (size_t at = 0; at < len; at++) {
		memcpy(copy, good, len);
		copy[at] ^= 1 << at % 7;
		if (manifest_parse(copy, len, &m, NULL) == 0) {
			manifest_free(&m);
			accepted++;
		}
	}
	/* Digits of digests and sizes may change unnoticed; structure may not. */
	assert_in_range(accepted, 1, len - 100);
	free(copy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(references_complete_as_docker_does),
		cmocka_unit_test(wrong_references_are_refused),
		cmocka_unit_test(layouts_and_loopback),
		cmocka_unit_test(challenges_are_read),
		cmocka_unit_test(malformed_challenges_are_refused),
		cmocka_unit_test(credentials_are_split_and_joined),
		cmocka_unit_test(types_must_agree),
		cmocka_unit_test(the_platform_is_chosen),
		cmocka_unit_test(manifests_are_bounded),
		cmocka_unit_test(damaged_json_is_survived),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
