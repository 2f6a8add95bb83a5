/* smvm-runner ws: what a restored VM has touched, for the next restores of its snapshot. */
#include "runner/cmd/cmd.h"

#include <stdbool.h>
#include <stdio.h>

#define WS_WAIT_MS (120 * 1000)

static const char usage[] =
	"Usage: smvm-runner ws [--json] VM NAME\n"
	"Store the snapshot VM was restored from once more as snapshots/NAME, together with VM's\n"
	"working set: which pages it has read and which it has written since. Restores of NAME map\n"
	"and copy those in the background. Takes next to no space, and VM does not pause. NAME may\n"
	"take the place of the old snapshot: remove that one and rename NAME.\n\n"
	"      --json   print pages and time as JSON\n";

int cmd_ws(int argc, char **argv)
{
	static const struct option options[] = {
		{"json", no_argument, NULL, 'j'}, {"help", no_argument, NULL, 'h'}, {0}};
	struct err err = ERR_INIT;
	json_t *reply;
	bool json = false;
	int o;

	while ((o = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (o) {
		case 'j':
			json = true;
			break;
		case 'h':
			return help(usage);
		default:
			return EXIT_USAGE;
		}
	}
	if (argc - optind != 2)
		return usage_error("ws", "takes a VM and a name");
	if (ask_vm(argv[optind], json_pack("{s:s, s:s}", "op", "ws", "name", argv[optind + 1]),
		   WS_WAIT_MS, &reply, &err) < 0)
		return fail(&err);
	if (json)
		return print_json(reply);
	printf("%s: %lld pages written, %lld read\n",
	       json_string_value(json_object_get(reply, "name")),
	       (long long)json_integer_value(json_object_get(reply, "written_pages")),
	       (long long)json_integer_value(json_object_get(reply, "read_pages")));
	json_decref(reply);
	return EXIT_OK;
}
