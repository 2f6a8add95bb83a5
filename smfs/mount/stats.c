#include "smfs/mount/stats.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "smfs/mount/fs.h"
#include "smfs/mount/hot.h"
#include "smfs/mount/hot_cache.h"

static const struct {
	const char *name, *help;
} counters[COUNTERS] = {
	[COUNT_LOOKUPS] = {"lookups", "Names looked up."},
	[COUNT_OPENS] = {"opens", "Files and directories opened."},
	[COUNT_READS] = {"reads", "Read requests answered."},
	[COUNT_READ_BYTES] = {"read_bytes", "Bytes handed to readers."},
	[COUNT_READAHEADS] = {"readaheads", "Pieces decoded ahead of a sequential reader."},
	[COUNT_WRITES] = {"writes", "Write requests answered."},
	[COUNT_WRITE_BYTES] = {"write_bytes", "Bytes written into snapshots being copied in."},
	[COUNT_BAD_READS] = {"bad_reads", "Reads that failed because stored data is damaged."},
	[COUNT_ERRORS] = {"errors", "Requests that failed for another reason than a missing name."},
	[COUNT_IMPORTS] = {"imports", "Snapshots copied in and published."},
	[COUNT_IMPORT_FAILURES] = {"import_failures", "Snapshots copied in and refused."},
	[COUNT_RENAMES] = {"renames", "Snapshots renamed."},
	[COUNT_REMOVALS] = {"removals", "Snapshots removed."},
	[COUNT_HOT_OPENS] = {"hot_opens", "Opens that the kernel serves from materialised files."},
	[COUNT_HOT_REFUSED] = {"hot_refused", "Opens served cold because the kernel refused."},
	[COUNT_HOT_MADE] = {"hot_made", "Files materialised."},
	[COUNT_HOT_FAILURES] = {"hot_failures", "Files that could not be materialised."},
	[COUNT_HOT_EVICTED] = {"hot_evicted", "Materialised files removed to make room."},
};

static void counter_out(FILE *f, const char *name, const char *help, uint64_t v)
{
	fprintf(f,
		"# HELP smfs_%s_total %s\n# TYPE smfs_%s_total counter\nsmfs_%s_total %" PRIu64
		"\n",
		name, help, name, name, v);
}

static void gauge_out(FILE *f, const char *name, const char *help, uint64_t v)
{
	fprintf(f, "# HELP smfs_%s %s\n# TYPE smfs_%s gauge\nsmfs_%s %" PRIu64 "\n", name, help,
		name, name, v);
}

char *stats_text(struct smfs_mount *m, size_t *len)
{
	struct smfs_store_stat st;
	struct hot_cache_stat cache;
	char *text = NULL;
	FILE *f = open_memstream(&text, len);

	if (!f)
		return NULL;
	for (int i = 0; i < COUNTERS; i++)
		counter_out(f, counters[i].name, counters[i].help, stats_get(&m->stats, i));
	gauge_out(f, "inodes", "Inodes the kernel holds.", node_table_count(&m->nodes));
	gauge_out(f, "imports_in_progress", "Snapshots being copied in.",
		  m->stages ? stage_area_count(m->stages) : 0);
	if (m->hot && hot_cache_stat(hot_cache_of(m->hot), &cache, NULL) == 0) {
		gauge_out(f, "hot_files_open", "Files the kernel serves now.", hot_count(m->hot));
		gauge_out(f, "hot_cache_files", "Materialised files.", cache.files);
		gauge_out(f, "hot_cache_bytes", "What they take.", cache.bytes);
		gauge_out(f, "hot_cache_limit_bytes", "What they may take.", cache.limit);
	}
	if (smfs_store_stat(m->store, &st, NULL) == 0) {
		gauge_out(f, "snapshots", "Snapshots in the store.", st.snapshots);
		gauge_out(f, "images", "Images in the store.", st.images);
		gauge_out(f, "layers", "Layers in the store.", st.layers);
		gauge_out(f, "chunks", "Distinct chunks in the store.", st.chunks);
		gauge_out(f, "logical_bytes", "Sum of the sizes of all names.", st.logical_bytes);
		gauge_out(f, "raw_bytes", "Distinct chunk bytes, uncompressed.", st.raw_bytes);
		gauge_out(f, "stored_bytes", "Bytes the chunks take in packs.", st.stored_bytes);
		gauge_out(f, "disk_bytes", "Bytes of packs, index and journal.", st.disk_bytes);
		gauge_out(f, "free_bytes", "Bytes free on the store's file system.", st.free_bytes);
	}
	if (fclose(f) != 0) {
		free(text);
		return NULL;
	}
	return text;
}
