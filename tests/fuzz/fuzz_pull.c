/* What smvm-pull parses of what strangers send: the first byte chooses the parser. */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "pull/challenge.h"
#include "pull/erofs_cuts.h"
#include "pull/manifest.h"
#include "pull/ref.h"
#include "smfs/base/io.h"

static void fuzz_text(const char *s)
{
	char name[SMFS_REF_MAX + 1];
	struct challenge c;
	struct ref r;

	challenge_parse(s, &c, NULL);
	if (ref_parse(s, &r, NULL) == 0)
		ref_image_name(&r, name, NULL);
}

static void fuzz_manifest(const char *s, size_t len)
{
	struct platform p = {.os = "linux", .arch = "amd64"};
	struct descriptor d;
	struct manifest m;
	int64_t created;
	bool index;

	manifest_is_index(s, len, "", &index, NULL);
	index_choose(s, len, &p, &d, NULL);
	if (manifest_parse(s, len, &m, NULL) == 0) {
		config_apply(s, len, &p, &m, &created, NULL);
		manifest_free(&m);
	}
}

static void fuzz_erofs(const uint8_t *data, size_t len)
{
	int fd = memfd_create("image", MFD_CLOEXEC);
	uint64_t *cuts;
	size_t n;

	if (fd >= 0 && pwrite_full(fd, data, len, 1024) == 0 &&
	    erofs_cuts(fd, &cuts, &n, NULL) == 0)
		free(cuts);
	close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	char *text = malloc(len + 1);

	if (!text || len == 0) {
		free(text);
		return 0;
	}
	memcpy(text, data + 1, len - 1);
	text[len - 1] = '\0';
	switch (data[0] % 3) {
	case 0:
		fuzz_text(text);
		break;
	case 1:
		fuzz_manifest(text, len - 1);
		break;
	default:
		fuzz_erofs(data + 1, len - 1);
	}
	free(text);
	return 0;
}
