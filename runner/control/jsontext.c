#include "runner/control/jsontext.h"

#include "smfs/base/cleanup.h"

#include <stdlib.h>
#include <string.h>

json_t *json_text(const char *s)
{
	cleanup_free char *copy = strdup(s);

	if (!copy)
		return NULL;
	for (char *p = copy; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = '?';
	json_t *j = json_string(copy);
	if (j)
		return j;
	for (char *p = copy; *p; p++)
		if ((unsigned char)*p > 0x7f)
			*p = '?';
	return json_string(copy);
}
