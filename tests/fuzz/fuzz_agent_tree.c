/*
 * A tree from a hostile guest, into a folder of this host. The input is frames as they are, or
 * (first byte odd) a recipe for entries whose paths are made of few names, so that they meet links,
 * folders and each other. Whatever comes: nothing beside the destination appears or changes.
 */
#include "runner/proto/tree.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define SENTINEL "nobody writes here"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char base[64];

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
	return at->level == 0 ? 0 : remove(path);
}

static void begin(void)
{
	char path[96];

	if (!base[0]) {
		strcpy(base, "/dev/shm/fuzz-tree.XXXXXX");
		if (!mkdtemp(base))
			abort();
	}
	nftw(base, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	snprintf(path, sizeof(path), "%s/out", base);
	if (mkdir(path, 0755) < 0)
		abort();
	snprintf(path, sizeof(path), "%s/out/f", base);
	if (write_file_atomic(AT_FDCWD, path, SENTINEL, strlen(SENTINEL), 0600, NULL) < 0)
		abort();
}

static void check(void)
{
	cleanup_free char *text = NULL;
	struct dirent *e;
	char path[96];
	struct stat st;
	unsigned n = 0;
	size_t len;

	snprintf(path, sizeof(path), "%s/out/f", base);
	if (read_file(AT_FDCWD, path, 4096, &text, &len, NULL) < 0 || strcmp(text, SENTINEL) != 0 ||
	    stat(path, &st) < 0 || (st.st_mode & 07777) != 0600 || st.st_nlink != 1)
		abort();
	snprintf(path, sizeof(path), "%s/out", base);
	cleanup_dir DIR *out = opendir(path), *top = opendir(base);
	while ((e = readdir(out)))
		n++;
	while ((e = readdir(top)))
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") && strcmp(e->d_name, "out") &&
		    strcmp(e->d_name, "t"))
			abort();
	if (n != 3)
		abort();
}

static void put_path(struct reader *r, char *out, size_t cap)
{
	static const char *const names[] = {"a", "b", "l", "..", ".", "out", "f", ""};
	unsigned n = get_u8(r) % 5;
	size_t len = 0;

	out[0] = '\0';
	for (unsigned i = 0; i < n; i++)
		len += (size_t)snprintf(out + len, cap - len, "%s%s", i ? "/" : "",
					names[get_u8(r) % ARRAY_SIZE(names)]);
}

static void put_frame(struct writer *w, uint16_t type, const void *p, size_t n)
{
	uint8_t hdr[AGENT_FRAME_HDR];

	agent_header_put(hdr, type, (uint32_t)n);
	put_bytes(w, hdr, sizeof(hdr));
	put_bytes(w, p, n);
}

static void put_recipe(struct writer *w, struct reader r)
{
	struct agent_entry *e = malloc(sizeof(*e));

	for (bool first = true; r.left && e && w->len < 60000; first = false) {
		cleanup_writer struct writer x = WRITER_INIT;

		*e = (struct agent_entry){.type = get_u8(&r) % 8, .mode = get_u16(&r) & 07777};
		if (!first)
			put_path(&r, e->path, sizeof(e->path));
		else
			e->type = ENTRY_DIR;
		if (e->type == ENTRY_SYMLINK || e->type == ENTRY_HARDLINK)
			put_path(&r, e->target, sizeof(e->target));
		if (e->type == ENTRY_FILE)
			e->size = get_u8(&r);
		agent_put_entry(&x, e);
		put_frame(w, AGENT_ENTRY, x.p, x.len);
		if (e->size)
			put_frame(w, AGENT_DATA, base, MIN(e->size, (uint64_t)sizeof(base)));
	}
	put_frame(w, AGENT_DONE, NULL, 0);
	free(e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct tree_policy p = {.owners = size > 1 && data[0] & 2,
				      .max_bytes = 1 << 20,
				      .max_entries = 1000,
				      .idle_ms = 1000};
	cleanup_writer struct writer w = WRITER_INIT;
	struct agent_frame f = {0};
	struct agent_done done;
	struct err err = ERR_INIT;
	int s[2];

	if (size < 1 || size > 60000)
		return 0;
	begin();
	if (data[0] & 1)
		put_recipe(&w, reader_of(data + 1, size - 1));
	else
		put_bytes(&w, data + 1, size - 1);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s) < 0)
		abort();
	cleanup_fd int dirfd = open(base, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (w.len && send(s[1], w.p, w.len, MSG_DONTWAIT) != (ssize_t)w.len)
		abort();
	shutdown(s[1], SHUT_WR);
	tree_receive(s[0], &f, dirfd, "t", &p, &done, &err);
	close(s[0]);
	close(s[1]);
	agent_frame_free(&f);
	check();
	return 0;
}
