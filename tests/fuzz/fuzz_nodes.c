/*
 * Directory and map nodes: the first byte chooses the parser (0 directory, 1 leaf, 2..5 inner of
 * level 1..4), the rest is the node. What is accepted is walked whole, and must keep what its
 * header promises to those who use it in place.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "smfs/store/dir.h"
#include "smfs/store/map.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint8_t sink;

static void must(bool yes)
{
	if (!yes)
		abort();
}

static void touch(const void *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		sink = (uint8_t)(sink ^ ((const uint8_t *)p)[i]);
}

static void use_dir(const struct smfs_dir *d)
{
	const char *last = NULL;

	for (size_t i = 0; i < smfs_dir_count(d); i++) {
		const struct smfs_entry *e = smfs_dir_at(d, i);

		must(!last || strcmp(last, e->name) < 0);
		last = e->name;
		must(*e->name && strlen(e->name) <= SMFS_NAME_MAX && !strchr(e->name, '/') &&
		     strcmp(e->name, ".") != 0 && strcmp(e->name, "..") != 0);
		must(smfs_dir_find(d, e->name) == e);
		if (S_ISLNK(e->mode))
			must(*e->target && strlen(e->target) <= SMFS_LINK_MAX);
		if (S_ISREG(e->mode)) {
			uint8_t ref[SMFS_CONTENT_LEN];
			struct smfs_content c;

			smfs_content_encode(&e->content, ref);
			must(smfs_content_decode(ref, sizeof(ref), &c, NULL) == 0);
		}
		for (size_t x = 0; x < e->nxattrs; x++) {
			touch(e->xattrs[x].name, strlen(e->xattrs[x].name) + 1);
			touch(e->xattrs[x].value, e->xattrs[x].len);
		}
	}
	must(!smfs_dir_at(d, smfs_dir_count(d)) && !smfs_dir_find(d, ""));
}

static void fuzz_dir(const uint8_t *data, size_t size)
{
	uint8_t *raw = malloc(size ? size : 1);
	struct err err = ERR_INIT;
	struct smfs_dir *d;
	uint64_t logical;

	must(raw);
	memcpy(raw, data, size);
	dir_logical(raw, size, &logical, &err);
	if (dir_decode(raw, size, &d, &err) < 0)
		return;
	use_dir(d);
	smfs_dir_close(d);
}

static void fuzz_leaf(const uint8_t *node, size_t size)
{
	struct map_extent e;
	uint64_t end = 0;

	if (map_leaf_check(node, size) < 0)
		return;
	for (uint32_t i = 0; i < map_count(node); i++) {
		map_leaf_at(node, i, &e);
		touch(e.id.b, SMFS_ID_LEN);
		must(e.off >= end && e.len && (uint64_t)e.chunk_off + e.len <= FRAME_SIZE);
		end = (uint64_t)e.off + e.len;
		must(end <= LEAF_SPAN && map_leaf_find(node, e.off) == i &&
		     map_leaf_find(node, e.off + e.len - 1) == i);
	}
	must(map_leaf_find(node, (uint32_t)LEAF_SPAN) == map_count(node));
}

static void fuzz_inner(const uint8_t *node, size_t size, uint8_t level)
{
	struct map_child c;

	if (map_inner_check(node, size, level) < 0)
		return;
	must(map_level(node) == level);
	for (uint32_t i = 0; i < map_count(node); i++) {
		map_inner_at(node, i, &c);
		touch(c.id.b, SMFS_ID_LEN);
		must(c.pos < INNER_FANOUT && map_inner_find(node, c.pos) == i);
	}
	must(map_inner_find(node, INNER_FANOUT) == map_count(node));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	uint8_t kind = data[0] % (2 + MAP_DEPTH_MAX);
	/* A copy that ends where the node does: reading on is found. */
	uint8_t *node = malloc(size);

	must(node);
	memcpy(node, data + 1, size - 1);
	if (kind == 0)
		fuzz_dir(node, size - 1);
	else if (kind == 1)
		fuzz_leaf(node, size - 1);
	else
		fuzz_inner(node, size - 1, kind - 1);
	free(node);
	return 0;
}
