#include "pull/credentials.h"

#include <fcntl.h>
#include <jansson.h>
#include <openssl/evp.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "smfs/base/cleanup.h"
#include "smfs/base/err.h"
#include "smfs/base/io.h"

#define HUB	   "docker.io"
#define HUB_KEY	   "https://index.docker.io/v1/"
#define FILE_MAX   (4u << 20)
#define SECRET_MAX (64u << 10)
#define HELPER_TOKEN                                                                 \
	"<token>" /* the user name by which a helper says: this is an identity token \
		   */

extern char **environ;

static void json_done(json_t **j)
{
	json_decref(*j);
}

static void wipe(char *s)
{
	if (s)
		explicit_bzero(s, strlen(s));
	free(s);
}

void credentials_free(struct credentials *c)
{
	wipe(c->user);
	wipe(c->password);
	wipe(c->identity_token);
	memset(c, 0, sizeof(*c));
}

int credentials_parse(const char *text, struct credentials *out, struct err *err)
{
	const char *colon = strchr(text, ':');

	memset(out, 0, sizeof(*out));
	if (!colon || colon == text)
		return err_set(err, EINVAL, "credentials: write USER:PASSWORD");
	out->user = strndup(text, colon - text);
	out->password = strdup(colon + 1);
	if (!out->user || !out->password) {
		credentials_free(out);
		return err_set(err, ENOMEM, "credentials: out of memory");
	}
	return 0;
}

char *credentials_basic(const struct credentials *c)
{
	char *plain = NULL, *out;
	int n = asprintf(&plain, "%s:%s", c->user, c->password);

	if (n < 0)
		return NULL;
	out = malloc(6 + 4 * ((size_t)n / 3 + 1) + 1);
	if (out) {
		memcpy(out, "Basic ", 6);
		EVP_EncodeBlock((unsigned char *)out + 6, (const unsigned char *)plain, n);
	}
	wipe(plain);
	return out;
}

/* The `auth` of a config file: base64 of user:password. */
static int decode_auth(const char *text, struct credentials *out, struct err *err)
{
	size_t n = strlen(text), pad = 0;
	cleanup_free char *plain = NULL;
	int len, r;

	while (n && pad < 2 && text[n - 1 - pad] == '=')
		pad++;
	if (n == 0 || n % 4 || n > SECRET_MAX)
		return err_set(err, EINVAL, "auth is not base64 of user:password");
	plain = calloc(1, n + 1);
	if (!plain)
		return err_set(err, ENOMEM, "credentials: out of memory");
	len = EVP_DecodeBlock((unsigned char *)plain, (const unsigned char *)text, (int)n);
	if (len < (int)pad)
		return err_set(err, EINVAL, "auth is not base64 of user:password");
	plain[len - pad] = '\0';
	r = credentials_parse(plain, out, err);
	explicit_bzero(plain, n);
	return r;
}

static int take(const char *s, char **out)
{
	*out = s && *s ? strdup(s) : NULL;
	return s && *s && !*out ? -ENOMEM : 0;
}

static int from_entry(const json_t *e, struct credentials *out, struct err *err)
{
	const char *auth = json_string_value(json_object_get(e, "auth"));
	const char *user = json_string_value(json_object_get(e, "username"));
	const char *password = json_string_value(json_object_get(e, "password"));
	int r = 0;

	if (auth && *auth)
		r = decode_auth(auth, out, err);
	else if (user && *user && password &&
		 (take(user, &out->user) < 0 || !(out->password = strdup(password))))
		r = err_set(err, ENOMEM, "credentials: out of memory");
	if (r == 0 &&
	    take(json_string_value(json_object_get(e, "identitytoken")), &out->identity_token) < 0)
		r = err_set(err, ENOMEM, "credentials: out of memory");
	return r;
}

/* "https://host:port/v2/" and "host:port" are the same registry to docker. */
static bool key_is_registry(const char *key, const char *want)
{
	size_t n;

	if (strncmp(key, "https://", 8) == 0)
		key += 8;
	else if (strncmp(key, "http://", 7) == 0)
		key += 7;
	n = strcspn(key, "/");
	return strlen(want) == n && strncmp(key, want, n) == 0 &&
	       (!key[n] || !key[n + 1] || key[n + 1] == 'v');
}

/* The entry for host/path, host/parent ..., host: the closest wins. */
static const json_t *find_entry(const json_t *table, const char *registry, const char *repository)
{
	cleanup_free char *key = NULL;
	const char *name;
	json_t *value, *e;

	if (asprintf(&key, "%s/%s", registry, repository) < 0)
		return NULL;
	for (char *slash = key; slash; slash = strrchr(key, '/')) {
		if (slash != key)
			*slash = '\0';
		e = json_object_get(table, key);
		if (e)
			return e;
	}
	if (strcmp(registry, HUB) == 0 && (e = json_object_get(table, HUB_KEY)))
		return e;
	json_object_foreach((json_t *)table, name,
			    value) if (key_is_registry(name, registry)) return value;
	return NULL;
}

static int run_helper(const char *helper, const char *server, char *out, size_t max,
		      struct err *err)
{
	cleanup_free char *program = NULL;
	int in[2] = {-1, -1}, from[2] = {-1, -1}, status = 0, r = 0;
	posix_spawn_file_actions_t fa;
	size_t n = 0;
	pid_t pid;

	if (strchr(helper, '/') || asprintf(&program, "docker-credential-%s", helper) < 0)
		return err_set(err, EINVAL, "credential helper %.100s: not a valid name", helper);
	if (pipe2(in, O_CLOEXEC) < 0)
		return err_errno(err, "run %s", program);
	if (pipe2(from, O_CLOEXEC) < 0) {
		r = err_errno(err, "run %s", program);
		close(in[0]);
		close(in[1]);
		return r;
	}
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_adddup2(&fa, in[0], 0);
	posix_spawn_file_actions_adddup2(&fa, from[1], 1);
	char *const argv[] = {program, (char *)"get", NULL};

	r = posix_spawnp(&pid, program, &fa, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&fa);
	close(in[0]);
	close(from[1]);
	if (r) {
		close(in[1]);
		close(from[0]);
		return err_set(err, r, "run credential helper %s: %s", program, strerror(r));
	}
	/* A short line fits any pipe; a helper that does not read it must not kill us by SIGPIPE
	 * (ignored). */
	r = write_full(in[1], server, strlen(server));
	close(in[1]);
	while (n < max - 1) {
		ssize_t got = read(from[0], out + n, max - 1 - n);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		n += got;
	}
	out[n] = '\0';
	close(from[0]);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (strstr(out, "credentials not found"))
		return -ENOENT;
	if (r < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return err_set(err, EACCES, "credential helper %s failed: %.200s", program, out);
	return 0;
}

static int from_helper(const char *helper, const char *registry, struct credentials *out,
		       struct err *err)
{
	const char *server = strcmp(registry, HUB) == 0 ? HUB_KEY : registry;
	cleanup_free char *text = calloc(1, SECRET_MAX);
	json_t *j __attribute__((cleanup(json_done))) = NULL;
	const char *user, *secret;
	int r;

	if (!text)
		return err_set(err, ENOMEM, "credentials: out of memory");
	r = run_helper(helper, server, text, SECRET_MAX, err);
	if (r == 0)
		j = json_loads(text, 0, NULL);
	explicit_bzero(text, SECRET_MAX);
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	user = json_string_value(json_object_get(j, "Username"));
	secret = json_string_value(json_object_get(j, "Secret"));
	if (!user || !secret)
		return err_set(err, EINVAL,
			       "credential helper %.100s: its answer is not understood", helper);
	if (strcmp(user, HELPER_TOKEN) == 0)
		r = take(secret, &out->identity_token);
	else if (take(user, &out->user) < 0 || !(out->password = strdup(secret)))
		r = -ENOMEM;
	return r < 0 ? err_set(err, ENOMEM, "credentials: out of memory") : 0;
}

static int from_file(const char *path, bool must_exist, const char *registry,
		     const char *repository, struct credentials *out, struct err *err)
{
	json_t *j __attribute__((cleanup(json_done))) = NULL;
	cleanup_free char *text = NULL;
	const char *helper;
	const json_t *e;
	json_error_t je;
	size_t len;
	int r;

	if (!must_exist && access(path, F_OK) < 0)
		return 0;
	r = read_file(AT_FDCWD, path, FILE_MAX, &text, &len, err);
	if (r < 0)
		return r;
	j = json_loadb(text, len, 0, &je);
	explicit_bzero(text, len);
	if (!json_is_object(j))
		return err_set(err, EINVAL, "%s: not valid JSON, line %d: %s", path, je.line,
			       je.text);
	helper = json_string_value(
		find_entry(json_object_get(j, "credHelpers"), registry, repository));
	if (!helper)
		helper = json_string_value(json_object_get(j, "credsStore"));
	if (helper && *helper) {
		r = from_helper(helper, registry, out, err);
		if (r < 0 || out->user || out->identity_token)
			return r;
	}
	e = find_entry(json_object_get(j, "auths"), registry, repository);
	r = e ? from_entry(e, out, err) : 0;
	return r < 0 ? err_wrap(err, r, "%s", path) : 0;
}

int credentials_find(const char *authfile, const char *registry, const char *repository,
		     struct credentials *out, struct err *err)
{
	const char *config = getenv("DOCKER_CONFIG"), *home = getenv("HOME");
	cleanup_free char *path = NULL;
	int r;

	memset(out, 0, sizeof(*out));
	if (!authfile)
		authfile = getenv("REGISTRY_AUTH_FILE");
	if (authfile && *authfile)
		return from_file(authfile, true, registry, repository, out, err);
	if (config && *config)
		r = asprintf(&path, "%s/config.json", config);
	else if (home && *home)
		r = asprintf(&path, "%s/.docker/config.json", home);
	else
		return 0;
	if (r < 0) {
		path = NULL;
		return err_set(err, ENOMEM, "credentials: out of memory");
	}
	return from_file(path, false, registry, repository, out, err);
}
