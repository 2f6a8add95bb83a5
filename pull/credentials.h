/*
 * credentials.h - what the user knows about a registry: from -u, or the files docker and podman
 * keep.
 *
 * Looked up in --authfile, else $REGISTRY_AUTH_FILE, else $DOCKER_CONFIG/config.json or
 * ~/.docker/config.json: `auths` (with Docker Hub's legacy key), `credHelpers`, `credsStore`.
 * Helpers run as docker-credential-NAME. Secrets are wiped when freed and never logged.
 */
#ifndef PULL_CREDENTIALS_H
#define PULL_CREDENTIALS_H

struct err;

struct credentials {
	char *user, *password; /* both or neither */
	char *identity_token;  /* an OAuth2 refresh token, or NULL */
};

/* "user:password". */
int credentials_parse(const char *text, struct credentials *out, struct err *err);
/*
 * For `registry` ("docker.io", "host:port") and `repository`; all NULL when nobody knows any. An
 * unreadable or malformed file is an error, a missing default file is not.
 */
int credentials_find(const char *authfile, const char *registry, const char *repository,
		     struct credentials *out, struct err *err);
/* The Authorization value for Basic; the caller frees. NULL when out of memory. */
char *credentials_basic(const struct credentials *c);
void credentials_free(struct credentials *c);

#endif
