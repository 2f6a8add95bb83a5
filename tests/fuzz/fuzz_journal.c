/*
 * journal_each() and journal_scan(): the input is what follows the journal's header, once as it is
 * and once with the magic, lengths as far as they reach and checksum of each record made
 * right. Every record handed on is one that a store could have written: it is written again, and
 * read back the same.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "smfs/store/journal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define RECORD_HEAD 24u

static void must(bool yes)
{
	if (!yes)
		abort();
}

static int same_record(const struct journal_record *rec, void *arg, struct err *err)
{
	const struct journal_record *want = arg;

	must(rec->seq == 1 && rec->time == want->time && rec->npacks == want->npacks &&
	     rec->nchanges == want->nchanges &&
	     memcmp(rec->packs, want->packs, rec->npacks * sizeof(*rec->packs)) == 0);
	for (size_t i = 0; i < rec->nchanges; i++) {
		const struct journal_change *a = &rec->changes[i], *b = &want->changes[i];

		must(a->op == b->op && a->name.kind == b->name.kind &&
		     strcmp(a->name.name, b->name.name) == 0 &&
		     id_equal(&a->name.root, &b->name.root) && a->name.seq == b->name.seq &&
		     a->name.mtime == b->name.mtime);
		must(a->op != OP_RENAME || strcmp(a->from, b->from) == 0);
	}
	return 0;
}

static int check_record(const struct journal_record *rec, void *arg, struct err *err)
{
	struct journal_record copy = *rec;
	uint64_t len = JOURNAL_HEAD_LEN;
	int fd = memfd_create("again", MFD_CLOEXEC);

	for (size_t i = 0; i < rec->nchanges; i++)
		must(smfs_name_check(rec->changes[i].name.kind, rec->changes[i].name.name, NULL) ==
		     0);
	copy.seq = 1;
	must(fd >= 0);
	must(journal_append(fd, &len, &copy, NULL) == 0);
	must(journal_each(fd, len, same_record, &copy, err) == 0);
	close(fd);
	return 0;
}

static int scanned(struct journal_scan *scan, const struct journal_record *rec, uint64_t off,
		   uint64_t len, struct err *err)
{
	return check_record(rec, NULL, err);
}

static int lost(struct journal_scan *scan, uint64_t from, uint64_t to, struct err *err)
{
	must(from < to);
	return 0;
}

static void seal(uint8_t *p, size_t size)
{
	uint64_t seq = 1;

	for (size_t off = 0; size - off >= RECORD_HEAD + 16; seq++) {
		uint32_t magic = 0x4345524au, n;

		memcpy(&n, p + off + 4, 4);
		n &= ~7u;
		if (n <= RECORD_HEAD + 16 || n > size - off)
			n = (uint32_t)((size - off) & ~(size_t)7);
		if (n <= RECORD_HEAD)
			return;
		memcpy(p + off, &magic, 4);
		memcpy(p + off + 4, &n, 4);
		memset(p + off + 16, 0, 8);
		memcpy(p + off + RECORD_HEAD, &seq, 8);
		uint64_t sum = XXH3_64bits(p + off + RECORD_HEAD, n - RECORD_HEAD);
		memcpy(p + off + 8, &sum, 8);
		off += n;
	}
}

static void read_it(int fd, uint64_t len)
{
	struct journal_scan scan = {scanned, lost};
	struct err err = ERR_INIT;
	int r = journal_each(fd, len, check_record, NULL, &err);

	must(r == 0 || err.code);
	err_clear(&err);
	r = journal_scan(fd, len, &scan, &err);
	must(r == 0 || err.code);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t uuid[UUID_LEN];
	uint8_t head[JOURNAL_HEAD_LEN];
	uint8_t *copy = malloc(size ? size : 1);
	int fd = memfd_create("journal", MFD_CLOEXEC);

	must(copy && fd >= 0);
	memcpy(copy, data, size);
	journal_head_encode(uuid, head);
	must(write(fd, head, sizeof(head)) == sizeof(head));
	for (int sealed = 0; sealed < 2; sealed++) {
		must(pwrite(fd, copy, size, sizeof(head)) == (ssize_t)size);
		read_it(fd, sizeof(head) + size);
		seal(copy, size);
	}
	close(fd);
	free(copy);
	return 0;
}
