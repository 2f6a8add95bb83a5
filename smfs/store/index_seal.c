/* The note that an index's pages were proven: see index_priv.h. */
#include "smfs/base/bytes.h"
#include "smfs/base/io.h"
#include "smfs/store/index_priv.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define SEAL_MAGIC 0x4c41455358444e49ull /* "INDXSEAL" */
#define SEAL_LEN   96u
#define BOOT_LEN   36u

struct seal {
	uint64_t txnid, ino, size, mtime, ctime;
	uint8_t boot[BOOT_LEN];
};

static uint64_t ns_of(const struct timespec *t)
{
	return (uint64_t)t->tv_sec * 1000000000 + (uint64_t)t->tv_nsec;
}

/* After a boot the file is proven anew: what its disk did meanwhile leaves no trace in its times.
 */
static bool now_is(const struct index *ix, struct seal *s)
{
	MDB_envinfo info;
	struct stat st;
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	int r = fd < 0 ? -1 : pread_full(fd, s->boot, BOOT_LEN, 0);

	if (fd >= 0)
		close(fd);
	if (r < 0 || mdb_env_info(ix->env, &info) || fstat(ix->datafd, &st) < 0)
		return false;
	s->txnid = info.me_last_txnid;
	s->ino = st.st_ino;
	s->size = (uint64_t)st.st_size;
	s->mtime = ns_of(&st.st_mtim);
	s->ctime = ns_of(&st.st_ctim);
	return true;
}

static bool encode(const struct seal *s, uint8_t out[SEAL_LEN])
{
	uint64_t q[] = {htole64(SEAL_MAGIC), htole64(s->txnid), htole64(s->ino),
			htole64(s->size),    htole64(s->mtime), htole64(s->ctime)};
	uint64_t sum;

	memset(out, 0, SEAL_LEN);
	memcpy(out, q, sizeof(q));
	memcpy(out + sizeof(q), s->boot, BOOT_LEN);
	sum = htole64(XXH3_64bits(out, SEAL_LEN - 8));
	memcpy(out + SEAL_LEN - 8, &sum, 8);
	return true;
}

static bool read_note(const struct index *ix, uint8_t buf[SEAL_LEN])
{
	uint64_t sum;

	if (ix->sealfd < 0 || pread_full(ix->sealfd, buf, SEAL_LEN, 0) < 0)
		return false;
	memcpy(&sum, buf + SEAL_LEN - 8, 8);
	struct reader r = reader_of(buf, 8);
	return get_u64(&r) == SEAL_MAGIC && le64toh(sum) == XXH3_64bits(buf, SEAL_LEN - 8);
}

bool index_seal_holds(const struct index *ix)
{
	uint8_t have[SEAL_LEN], want[SEAL_LEN];
	struct seal s;

	return read_note(ix, have) && now_is(ix, &s) && encode(&s, want) &&
	       memcmp(have, want, SEAL_LEN) == 0;
}

uint64_t index_seal_txnid(const struct index *ix)
{
	uint8_t buf[SEAL_LEN];
	struct reader r = reader_of(buf + 8, 8);

	return read_note(ix, buf) ? get_u64(&r) : 0;
}

void index_seal_write(struct index *ix)
{
	uint8_t buf[SEAL_LEN];
	struct seal s;

	/* A cache: without it, the next open proves the pages again. */
	if (ix->sealfd >= 0 && now_is(ix, &s) && encode(&s, buf))
		(void)!pwrite(ix->sealfd, buf, SEAL_LEN, 0);
}
