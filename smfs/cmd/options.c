/*
 * options.c - the options every command has, help, and how a command fails.
 */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "smfs/base/log.h"
#include "smfs/base/num.h"
#include "smfs/cmd/cmd.h"

enum { OPT_STORE = 0x20000, OPT_JSON };

static const struct option common[] = {
	{"store", required_argument, NULL, OPT_STORE},
	{"json", no_argument, NULL, OPT_JSON},
	{"verbose", no_argument, NULL, 'v'},
	{"quiet", no_argument, NULL, 'q'},
	{"help", no_argument, NULL, 'h'},
};

#define OWN_MAX 16

static void print_help(const struct cmd *c)
{
	printf("usage: smfs %s [OPTION...]%s%s\n\n%s.\n", c->self->name, *c->self->args ? " " : "",
	       c->self->args, c->self->summary);
	if (c->self->help)
		printf("\n%s", c->self->help);
	printf("\n  --store DIR    the store (default: $SMFS_STORE, or " SMFS_DEFAULT_STORE ")\n"
	       "  --json         print JSON\n"
	       "  -v, --verbose  say more\n"
	       "  -q, --quiet    say less\n");
}

int cmd_getopt(struct cmd *c, int argc, char **argv, const char *own_short,
	       const struct option *own_long, int *status)
{
	struct option all[ARRAY_SIZE(common) + OWN_MAX + 1] = {0};
	char shorts[64];
	size_t n = ARRAY_SIZE(common);

	memcpy(all, common, sizeof(common));
	for (; own_long && own_long->name && n < ARRAY_SIZE(all) - 1; own_long++)
		all[n++] = *own_long;
	snprintf(shorts, sizeof(shorts), "hvq%s", own_short);
	for (;;) {
		int o = getopt_long(argc, argv, shorts, all, NULL);

		switch (o) {
		case OPT_STORE:
			c->store_dir = optarg;
			c->store_given = true;
			break;
		case OPT_JSON:
			c->json = true;
			break;
		case 'v':
			c->verbose = true;
			log_init("smfs", LOG_INFO);
			break;
		case 'q':
			c->quiet = true;
			log_init("smfs", LOG_ERR);
			break;
		case 'h':
			print_help(c);
			*status = cmd_flush();
			return CMD_EXIT;
		case '?':
			*status = EXIT_USAGE; /* getopt has said what */
			fprintf(stderr, "Try `smfs %s --help`.\n", c->self->name);
			return CMD_EXIT;
		default:
			return o;
		}
	}
}

bool cmd_parse(struct cmd *c, int argc, char **argv, int min, int max, int *status)
{
	if (cmd_getopt(c, argc, argv, "", NULL, status) == CMD_EXIT)
		return false;
	int n = argc - optind;

	if (n >= min && (max < 0 || n <= max))
		return true;
	*status = cmd_usage(c, n < min ? "too few arguments" : "too many arguments");
	return false;
}

int cmd_usage(const struct cmd *c, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "smfs %s: ", c->self->name);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "; usage: smfs %s %s\n", c->self->name, c->self->args);
	return EXIT_USAGE;
}

int cmd_fail(const struct err *err)
{
	fprintf(stderr, "smfs: %s\n", err->msg);
	return err_exit_code(err->code);
}
