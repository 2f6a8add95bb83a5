#include "pull/digest.h"

#include "smfs/base/err.h"
#include "smfs/base/hex.h"

#define PREFIX	   "sha256:"
#define PREFIX_LEN (sizeof(PREFIX) - 1)

int digest_parse(const char *text, struct digest *out, struct err *err)
{
	if (strncmp(text, PREFIX, PREFIX_LEN) != 0 ||
	    !hex_decode(text + PREFIX_LEN, strlen(text + PREFIX_LEN), out->b, sizeof(out->b)))
		return err_set(err, EINVAL,
			       "digest %.100s: must be sha256: and 64 lower-case hex digits", text);
	return 0;
}

char *digest_format(const struct digest *d, char *out)
{
	memcpy(out, PREFIX, PREFIX_LEN);
	hex_encode(d->b, sizeof(d->b), out + PREFIX_LEN);
	return out;
}

void digest_of(const void *data, size_t len, struct digest *out)
{
	sha256(data, len, out->b);
}
