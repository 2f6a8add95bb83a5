/*
 * The file `format`: what this directory is. Its last line is the sum of those before; a store made
 * before there was one has none.
 */
#include "smfs/store/store_priv.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/hex.h"
#include "smfs/base/io.h"

#include <inttypes.h>
#include <string.h>
#include <xxhash.h>

#define FORMAT_MAX 4096
#define SUM_LEN	   (sizeof("sum 0123456789abcdef\n") - 1)

static void sum_line(const char *text, size_t len, char out[SUM_LEN + 1])
{
	snprintf(out, SUM_LEN + 1, "sum %016" PRIx64 "\n", (uint64_t)XXH3_64bits(text, len));
}

int store_format_write(int dirfd, const char *dir, const uint8_t uuid[UUID_LEN], int64_t created,
		       struct err *err)
{
	char text[256], hex[2 * UUID_LEN + 1];
	int n = snprintf(text, sizeof(text), "smfs-store %d\nuuid %s\ncreated %" PRId64 "\n",
			 STORE_VERSION, hex_encode(uuid, UUID_LEN, hex), created);

	sum_line(text, (size_t)n, text + n);
	n += (int)SUM_LEN;
	int r = write_file_atomic(dirfd, FORMAT_FILE, text, (size_t)n, 0600, err);

	return r < 0 ? err_wrap(err, r, "store %s", dir) : 0;
}

/* The value of the line "<key> <value>" at *text, which moves to the next line. NULL: no such line.
 */
static char *line_value(char **text, const char *key)
{
	size_t n = strlen(key);
	char *value = *text + n + 1, *end = strchr(*text, '\n');

	if (!end || strncmp(*text, key, n) != 0 || (*text)[n] != ' ')
		return NULL;
	*end = '\0';
	*text = end + 1;
	return value;
}

/* What follows the first `n` lines. NULL: there are not as many. */
static char *after_lines(char *text, int n)
{
	for (; n > 0; n--) {
		text = strchr(text, '\n');
		if (!text)
			return NULL;
		text++;
	}
	return text;
}

int store_format_read(int dirfd, const char *dir, uint8_t uuid[UUID_LEN], int64_t *created,
		      struct err *err)
{
	cleanup_free char *text = NULL;
	uint64_t version, when;
	int r = read_file(dirfd, FORMAT_FILE, FORMAT_MAX, &text, NULL, err);

	if (r == -ENOENT)
		return err_set(err, ENOENT, "%s: not a store; run `smfs init %s`", dir, dir);
	if (r < 0)
		return err_wrap(err, r, "store %s", dir);
	/* What follows the third line. Of a newer program's file only the first counts. */
	char sum[SUM_LEN + 1] = "", *rest = after_lines(text, 3);
	if (rest)
		sum_line(text, (size_t)(rest - text), sum);
	bool summed = rest && (!*rest || strcmp(rest, sum) == 0);
	char *at = text, *v = line_value(&at, "smfs-store"), *hex, *time;
	if (!v || parse_u64(v, 0, UINT32_MAX, &version, NULL) < 0)
		goto bad;
	if (version != STORE_VERSION)
		return err_set(err, ENOTSUP, "store %s: format %" PRIu64 ", this program knows %d",
			       dir, version, STORE_VERSION);
	hex = line_value(&at, "uuid");
	time = hex ? line_value(&at, "created") : NULL;
	if (!time || !summed || !hex_decode(hex, strlen(hex), uuid, UUID_LEN) ||
	    parse_u64(time, 0, INT64_MAX, &when, NULL) < 0)
		goto bad;
	*created = (int64_t)when;
	return 0;
bad:
	return err_set(err, EBADMSG, "store %s: file `format` does not parse", dir);
}
