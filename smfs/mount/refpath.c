#include "smfs/mount/refpath.h"

#include <stdio.h>
#include <string.h>

bool ref_join(const char *prefix, const char *component, char out[SMFS_REF_MAX + 1])
{
	int n = snprintf(out, SMFS_REF_MAX + 1, "%s%s%s", prefix, *prefix ? "/" : "", component);

	return n >= 0 && n <= SMFS_REF_MAX;
}

bool ref_child(const char *prefix, const char *name, char out[SMFS_NAME_MAX + 1], bool *leaf)
{
	size_t p = strlen(prefix);

	if (p) {
		if (strncmp(name, prefix, p) != 0 || name[p] != '/')
			return false;
		name += p + 1;
	}
	size_t n = strcspn(name, "/");
	if (n == 0 || n > SMFS_NAME_MAX)
		return false;
	memcpy(out, name, n);
	out[n] = '\0';
	*leaf = name[n] == '\0';
	return true;
}

bool ref_skip(const char *prefix, const char *component, char out[SMFS_REF_MAX + 1])
{
	if (!ref_join(prefix, component, out))
		return false;
	size_t n = strlen(out);
	if (n + 2 > SMFS_REF_MAX)
		return false;
	/* Below the directory everything starts with "/" and a byte under 0xff. */
	memcpy(out + n, "/\xff", 3);
	return true;
}
