/*
 * image.h - what an OCI image says to run, from its config.json.
 *
 * The file is input from a registry: depth, counts and lengths are bounded and types checked
 * (EBADMSG).
 */
#ifndef RUNNER_GUEST_IMAGE_H
#define RUNNER_GUEST_IMAGE_H

#include "runner/proto/bootconf.h"

struct image_config {
	char **entrypoint, **cmd, **env; /* NULL-terminated, never NULL */
	char *cwd, *user;		 /* never NULL; may be "" */
	char *stop_signal;		 /* never NULL; may be "" */
	char *architecture;
};

/* `dir` is an image's directory in the mount: reads dir/config.json. */
int image_config_load(const char *dir, struct image_config *out, struct err *err);
int image_config_parse(const char *json, size_t len, struct image_config *out, struct err *err);
void image_config_free(struct image_config *c);

/*
 * The workload of `conf` from an image and the command line, by docker's rules: `entrypoint`
 * (NULL: the image's) followed by `args` (NULL: the image's Cmd, unless the entrypoint was given).
 * `extra_env` entries replace those of the same name; PATH is added when there is none. `cwd`
 * and `user` NULL take the image's. Everything put into `conf` is owned by it.
 */
struct image_overrides {
	char *const *entrypoint, *const *args, *const *extra_env;
	const char *cwd, *user;
};
int image_apply(const struct image_config *c, const struct image_overrides *o,
		struct bootconf *conf, struct err *err);

#endif
