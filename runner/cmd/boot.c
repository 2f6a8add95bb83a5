/* smvm-runner boot: a machine from an image, left running. */
#include "runner/cmd/boot_options.h"
#include "runner/cmd/cmd.h"
#include "runner/control/launch.h"

#include <stdio.h>
#include <string.h>

static const char usage[] =
	"Usage: smvm-runner boot [OPTIONS] IMAGE [-- ARG...]\n"
	"Boot IMAGE, run its entrypoint (with ARGs in place of its Cmd), and print the VM's id\n"
	"once its agent answers.\n\n" BOOT_OPTIONS_HELP
	"  -f, --foreground      stay, with the serial console on standard input and output\n"
	"      --json            print id, name, pid and directory as JSON\n";

int cmd_boot(int argc, char **argv)
{
	static const struct option options[] = {BOOT_OPTIONS_LONG,
						{"foreground", no_argument, NULL, 'f'},
						{"json", no_argument, NULL, OPT_OWN},
						{0}};
	bool foreground = false, json = false;
	struct err err = ERR_INIT;
	struct boot_options b;
	struct rundir *d;
	int o, r, code = EXIT_OK;

	boot_options_init(&b);
	while ((o = getopt_long(argc, argv, "+f" BOOT_OPTIONS_SHORT, options, NULL)) != -1) {
		if (o == '?')
			return EXIT_USAGE;
		if (o == 'h')
			return help(usage);
		if (o == 'f')
			foreground = true;
		else if (o == OPT_OWN)
			json = true;
		else if (boot_options_take(&b, o, optarg, &err) < 0)
			return usage_error("boot", "%s", err.msg);
	}
	/* getopt has eaten a "--" that comes before any argument: then there is no image. */
	const char *image =
		optind < argc && strcmp(argv[optind - 1], "--") != 0 ? argv[optind++] : NULL;
	if (optind < argc && !strcmp(argv[optind], "--"))
		optind++;
	r = boot_options_resolve(&b, image, optind < argc ? argv + optind : NULL, &err);
	if (r == 0 && foreground) {
		code = foreground_boot(b.name, &b.boot, &err);
		if (err.code)
			code = fail(&err);
	} else if (r == 0) {
		r = launch_boot(b.name, &b.boot, false, &d, &err);
		if (r == 0 && json)
			print_json(json_pack("{s:s, s:s, s:i, s:s}", "id", d->info.id, "name",
					     d->info.name, "pid", (int)d->info.pid, "dir",
					     d->path));
		else if (r == 0)
			puts(d->info.id);
		if (r == 0)
			rundir_release(d);
	}
	boot_options_free(&b);
	return r < 0 ? fail(&err) : code;
}
