#include "pull/challenge.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "smfs/base/err.h"

static bool is_token(char c)
{
	return isalnum((unsigned char)c) || (c && strchr("!#$%&'*+-.^_`|~", c));
}

static const char *skip_space(const char *p)
{
	return p + strspn(p, " \t");
}

static size_t token_len(const char *p)
{
	size_t n = 0;

	while (is_token(p[n]))
		n++;
	return n;
}

/* A token or quoted string at *p, copied to `out`. false when malformed or too long. */
static bool get_value(const char **p, char *out)
{
	const char *s = *p;
	size_t n = 0;

	if (*s != '"') {
		n = token_len(s);
		/* Some registries leave URLs and scopes unquoted. */
		while (s[n] && !strchr(" \t,\"", s[n]))
			n++;
		if (n == 0 || n >= CHALLENGE_VALUE_MAX)
			return false;
		memcpy(out, s, n);
		out[n] = '\0';
		*p = s + n;
		return true;
	}
	for (s++; *s && *s != '"'; s++) {
		if (*s == '\\' && s[1])
			s++;
		if ((unsigned char)*s < 0x20 || n + 1 >= CHALLENGE_VALUE_MAX)
			return false;
		out[n++] = *s;
	}
	if (*s != '"')
		return false;
	out[n] = '\0';
	*p = s + 1;
	return true;
}

/* name=value, or nothing when a scheme follows. 1 = got one, 0 = none here, -1 = malformed. */
static int get_param(const char **p, struct challenge *c)
{
	const char *name = *p;
	size_t n = token_len(name);
	const char *after = skip_space(name + n);
	char ignored[CHALLENGE_VALUE_MAX];
	char *out = ignored;

	if (n == 0 || *after != '=')
		return 0;
	/* "dG9rZW4=" is a token68, its padding no assignment. */
	if (strchr("=,", after[1]) && strspn(after, "=") == strcspn(after, " \t,"))
		return 0;
	if (n == 5 && strncasecmp(name, "realm", n) == 0)
		out = c->realm;
	else if (n == 7 && strncasecmp(name, "service", n) == 0)
		out = c->service;
	else if (n == 5 && strncasecmp(name, "scope", n) == 0)
		out = c->scope;
	else if (n == 5 && strncasecmp(name, "error", n) == 0)
		out = c->error;
	after = skip_space(after + 1);
	if (!get_value(&after, out))
		return -1;
	*p = skip_space(after);
	return 1;
}

int challenge_parse(const char *header, struct challenge *out, struct err *err)
{
	const char *p = header;

	memset(out, 0, sizeof(*out));
	for (;;) {
		struct challenge c = {0};
		int r;

		p += strspn(p, " \t,");
		if (!*p)
			break;
		size_t n = token_len(p);

		if (n == 0)
			goto malformed;
		if (n == 6 && strncasecmp(p, "Bearer", n) == 0)
			c.scheme = CHALLENGE_BEARER;
		else if (n == 5 && strncasecmp(p, "Basic", n) == 0)
			c.scheme = CHALLENGE_BASIC;
		p = skip_space(p + n);
		size_t params = 0;

		for (; (r = get_param(&p, &c)) > 0; params++)
			p += strspn(p, " \t,");
		if (r < 0)
			goto malformed;
		/* A scheme we do not know may carry a token68 instead of parameters. */
		if (c.scheme == CHALLENGE_NONE && !params)
			p += strcspn(p, " \t,");
		if (c.scheme == CHALLENGE_BEARER && !c.realm[0])
			return err_set(err, EPROTO,
				       "registry's Bearer challenge names no realm: %.200s",
				       header);
		if (c.scheme > out->scheme)
			*out = c;
	}
	return 0;
malformed:
	return err_set(err, EPROTO, "registry's authentication challenge is malformed: %.200s",
		       header);
}
