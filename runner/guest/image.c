#include "runner/guest/image.h"

#include "runner/proto/tlv.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"

#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG_MAX (4u << 20)
#define PATH_ENV   "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

static int bad(struct err *err, const char *what)
{
	return err_set(err, EBADMSG, "image configuration: %s", what);
}

/* A NULL-terminated list from an array of strings; missing or null reads as empty. */
static int get_list(json_t *o, const char *key, char ***out, struct err *err)
{
	json_t *a = json_object_get(o, key);
	size_t n = json_is_array(a) ? json_array_size(a) : 0;

	if (a && !json_is_array(a) && !json_is_null(a))
		return err_set(err, EBADMSG, "image configuration: %s is not a list", key);
	if (n > AGENT_ARGS_MAX)
		return err_set(err, EBADMSG, "image configuration: %s has %zu entries, at most %u",
			       key, n, AGENT_ARGS_MAX);
	*out = calloc(n + 1, sizeof(**out));
	if (!*out)
		return err_set(err, ENOMEM, "image configuration: out of memory");
	for (size_t i = 0; i < n; i++) {
		const char *s = json_string_value(json_array_get(a, i));

		/* Strings with a NUL inside were refused by the parser already. */
		if (!s)
			return err_set(err, EBADMSG, "image configuration: %s[%zu] is no string",
				       key, i);
		(*out)[i] = strdup(s);
		if (!(*out)[i])
			return err_set(err, ENOMEM, "image configuration: out of memory");
	}
	return 0;
}

static int get_string(json_t *o, const char *key, size_t max, char **out, struct err *err)
{
	json_t *v = json_object_get(o, key);
	const char *s = v && !json_is_null(v) ? json_string_value(v) : "";

	if (!s)
		return err_set(err, EBADMSG, "image configuration: %s is no string", key);
	if (strlen(s) > max)
		return err_set(err, EBADMSG, "image configuration: %s is longer than %zu", key,
			       max);
	*out = strdup(s);
	return *out ? 0 : err_set(err, ENOMEM, "image configuration: out of memory");
}

static int from_json(json_t *root, struct image_config *out, struct err *err)
{
	json_t *c = json_object_get(root, "config"), *empty = NULL;
	int r;

	if (!json_is_object(root))
		return bad(err, "not an object");
	if (c && !json_is_object(c) && !json_is_null(c))
		return bad(err, "config is not an object");
	if (!json_is_object(c))
		c = empty = json_object();
	if ((r = get_list(c, "Entrypoint", &out->entrypoint, err)) == 0 &&
	    (r = get_list(c, "Cmd", &out->cmd, err)) == 0 &&
	    (r = get_list(c, "Env", &out->env, err)) == 0 &&
	    (r = get_string(c, "WorkingDir", AGENT_PATH_MAX, &out->cwd, err)) == 0 &&
	    (r = get_string(c, "User", AGENT_NAME_MAX, &out->user, err)) == 0 &&
	    (r = get_string(c, "StopSignal", AGENT_NAME_MAX, &out->stop_signal, err)) == 0)
		r = get_string(root, "architecture", AGENT_NAME_MAX, &out->architecture, err);
	json_decref(empty);
	return r;
}

int image_config_parse(const char *json, size_t len, struct image_config *out, struct err *err)
{
	json_error_t je;
	json_t *root;
	int r;

	*out = (struct image_config){0};
	root = json_loadb(json, len, JSON_REJECT_DUPLICATES, &je);
	if (!root)
		return err_set(err, EBADMSG, "image configuration: line %d: %s", je.line, je.text);
	r = from_json(root, out, err);
	json_decref(root);
	if (r < 0)
		image_config_free(out);
	return r;
}

int image_config_load(const char *dir, struct image_config *out, struct err *err)
{
	cleanup_free char *text = NULL;
	char path[PATH_MAX];
	size_t len;
	int r;

	*out = (struct image_config){0};
	if (snprintf(path, sizeof(path), "%s/config.json", dir) >= (int)sizeof(path))
		return err_set(err, ENAMETOOLONG, "image %s: path too long", dir);
	r = read_file(AT_FDCWD, path, CONFIG_MAX, &text, &len, err);
	if (r == 0)
		r = image_config_parse(text, len, out, err);
	return r < 0 ? err_wrap(err, r, "image %s", dir) : 0;
}

void image_config_free(struct image_config *c)
{
	strv_free(c->entrypoint);
	strv_free(c->cmd);
	strv_free(c->env);
	free(c->cwd);
	free(c->user);
	free(c->stop_signal);
	free(c->architecture);
	*c = (struct image_config){0};
}

static unsigned strv_len(char *const *v)
{
	unsigned n = 0;

	while (v && v[n])
		n++;
	return n;
}

static char **concat(char *const *a, char *const *b)
{
	unsigned n = 0;
	char **out = calloc((size_t)strv_len(a) + strv_len(b) + 1, sizeof(*out));

	if (!out)
		return NULL;
	for (int side = 0; side < 2; side++) {
		for (char *const *p = side ? b : a; p && *p; p++) {
			if (!(out[n++] = strdup(*p))) {
				strv_free(out);
				return NULL;
			}
		}
	}
	return out;
}

static bool named(char *const *env, const char *entry)
{
	size_t n = strcspn(entry, "=");

	for (; env && *env; env++)
		if (!strncmp(*env, entry, n) && (*env)[n] == '=')
			return true;
	return false;
}

/* The image's entries that are not overridden, then the overriding ones, then PATH if missing. */
static char **merge_env(char *const *image, char *const *extra)
{
	static char *const path[] = {(char *)PATH_ENV, NULL};
	bool need_path = !named(image, PATH_ENV) && !named(extra, PATH_ENV);
	char **kept = calloc((size_t)strv_len(image) + 1, sizeof(*kept)), **with, **out;
	unsigned n = 0;

	if (!kept)
		return NULL;
	for (char *const *p = image; p && *p; p++)
		if (!named(extra, *p))
			kept[n++] = *p;
	with = concat(kept, extra);
	free(kept);
	if (!with || !need_path)
		return with;
	out = concat(with, path);
	strv_free(with);
	return out;
}

int image_apply(const struct image_config *c, const struct image_overrides *o,
		struct bootconf *conf, struct err *err)
{
	char *const *entry = o->entrypoint ? o->entrypoint : c->entrypoint;
	char *const *args = o->args;
	char **argv, **env;
	char *cwd, *user;

	/* A command line of its own entrypoint does not take the image's arguments. */
	if (!args && !o->entrypoint)
		args = c->cmd;
	argv = concat(entry, args);
	env = merge_env(c->env, o->extra_env);
	cwd = strdup(o->cwd ? o->cwd : c->cwd);
	user = strdup(o->user ? o->user : c->user);
	if (!argv || !env || !cwd || !user) {
		strv_free(argv);
		strv_free(env);
		free(cwd);
		free(user);
		return err_set(err, ENOMEM, "image configuration: out of memory");
	}
	strv_free(conf->argv);
	strv_free(conf->env);
	free(conf->cwd);
	free(conf->user);
	conf->argv = argv;
	conf->env = env;
	conf->cwd = cwd;
	conf->user = user;
	return 0;
}
