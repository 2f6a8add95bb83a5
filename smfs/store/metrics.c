#include "smfs/store/metrics.h"

#include <inttypes.h>

#include "smfs/base/num.h"

size_t store_metrics(const struct smfs_store_stat *st, struct metric out[STORE_METRICS_MAX])
{
	const struct metric v[] = {
		{"snapshots", "Snapshots in the store.", st->snapshots, false},
		{"images", "Images in the store.", st->images, false},
		{"layers", "Layers in the store.", st->layers, false},
		{"chunks", "Distinct chunks in the store.", st->chunks, false},
		{"nodes", "Map nodes and directories in the store.", st->nodes, false},
		{"packs", "Pack files.", st->packs, false},
		{"commits", "Changes of names the store has seen.", st->seq, true},
		{"logical_bytes", "Sum of the sizes of all names.", st->logical_bytes, false},
		{"raw_bytes", "Distinct chunk bytes, uncompressed.", st->raw_bytes, false},
		{"stored_bytes", "Bytes the chunks take in packs.", st->stored_bytes, false},
		{"disk_bytes", "Bytes of packs, index and journal.", st->disk_bytes, false},
		{"limit_bytes", "What disk_bytes may become; 0 for no limit.", st->limit_bytes,
		 false},
		{"reserve_bytes", "What ingests leave free on the store's file system.",
		 st->reserve_bytes, false},
		{"free_bytes", "Bytes free on the store's file system.", st->free_bytes, false},
	};
	size_t n = 0;

	_Static_assert(ARRAY_SIZE(v) <= STORE_METRICS_MAX, "the caller's array holds all");
	for (; n < ARRAY_SIZE(v); n++)
		out[n] = v[n];
	return n;
}

void metric_print(FILE *f, const struct metric *m)
{
	const char *end = m->counter ? "_total" : "";

	fprintf(f, "# HELP smfs_%s%s %s\n# TYPE smfs_%s%s %s\nsmfs_%s%s %" PRIu64 "\n", m->name,
		end, m->help, m->name, end, m->counter ? "counter" : "gauge", m->name, end,
		m->value);
}

void metric_print_build(FILE *f)
{
	fprintf(f, "# HELP smfs_build_info The version of smfs, as a label.\n"
		   "# TYPE smfs_build_info gauge\n"
		   "smfs_build_info{version=\"" SMFS_VERSION "\"} 1\n");
}
