#include "smfs/mount/stats.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "smfs/mount/fs.h"
#include "smfs/mount/hot.h"
#include "smfs/mount/hot_cache.h"
#include "smfs/store/metrics.h"

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

char *stats_text(struct smfs_mount *m, size_t *len)
{
	struct smfs_store_stat st;
	struct hot_cache_stat cache;
	char *text = NULL;
	FILE *f = open_memstream(&text, len);

	if (!f)
		return NULL;
	metric_print_build(f);
	for (int i = 0; i < COUNTERS; i++)
		metric_print(f, &(struct metric){counters[i].name, counters[i].help,
						 stats_get(&m->stats, i), true});
	metric_print(f, &(struct metric){"inodes", "Inodes the kernel holds.",
					 node_table_count(&m->nodes), false});
	takeover_stats(m->takeover, f);
	metric_print(f, &(struct metric){"imports_in_progress", "Snapshots being copied in.",
					 m->stages ? stage_area_count(m->stages) : 0, false});
	if (m->hot && hot_cache_stat(hot_cache_of(m->hot), &cache, NULL) == 0) {
		const struct metric hot[] = {
			{"hot_files_open", "Files the kernel serves now.", hot_count(m->hot),
			 false},
			{"hot_cache_files", "Materialised files.", cache.files, false},
			{"hot_cache_bytes", "What they take.", cache.bytes, false},
			{"hot_cache_limit_bytes", "What they may take.", cache.limit, false},
		};

		for (size_t i = 0; i < ARRAY_SIZE(hot); i++)
			metric_print(f, &hot[i]);
	}
	if (smfs_store_stat(m->store, &st, NULL) == 0) {
		struct metric v[STORE_METRICS_MAX];
		size_t n = store_metrics(&st, v);

		for (size_t i = 0; i < n; i++)
			metric_print(f, &v[i]);
	}
	if (fclose(f) != 0) {
		free(text);
		return NULL;
	}
	return text;
}
