/* smvm-pull: the command line of pull.h. */
#include <fcntl.h>
#include <getopt.h>
#include <jansson.h>
#include <libgen.h>
#include <locale.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include <curl/curl.h>

#include "pull/erofs.h"
#include "pull/pull.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/err.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"

#define DEFAULT_PLATFORM "linux/amd64"
#define DEFAULT_JOBS	 4
#define DEFAULT_TIMEOUT	 30
#define DEFAULT_RETRIES	 5
#define DEFAULT_MAX_SIZE (64 * GIB)

static const char usage[] =
	"Usage: smvm-pull [OPTIONS] REFERENCE\n"
	"Pull an OCI or Docker image into the store.\n"
	"\n"
	"  REFERENCE  [REGISTRY[:PORT]/]REPOSITORY[:TAG][@sha256:DIGEST], or oci:DIR[:TAG]\n"
	"\n"
	"  --store DIR          the store ($SMFS_STORE, else " SMFS_DEFAULT_STORE
	"); made if missing\n"
	"  --name NAME          the image's name in the store, written like a reference\n"
	"  --platform OS/ARCH[/VARIANT]   default " DEFAULT_PLATFORM "\n"
	"  -u, --user USER:PASSWORD       credentials for the registry\n"
	"  --authfile FILE      registry credentials as docker and podman keep them\n"
	"  --cacert FILE        trust these certificates, too (PEM)\n"
	"  --insecure           accept any certificate, and plain HTTP\n"
	"  --plain-http         use plain HTTP only\n"
	"  --jobs N             layers at a time, default 4\n"
	"  --timeout SECONDS    give up on a server silent that long, default 30\n"
	"  --retries N          attempts after the first, default 5\n"
	"  --max-size SIZE      refuse images that unpack to more, default 64G\n"
	"  --json               print the result as one JSON object\n"
	"  -q, --quiet          print nothing but errors\n"
	"  -v, --verbose        tell of retries and choices\n"
	"  --help, --version\n";

struct command {
	struct pull_options o;
	const char *reference, *store, *name, *platform;
	bool json, quiet, done;
};

enum {
	OPT_STORE = 256,
	OPT_NAME,
	OPT_PLATFORM,
	OPT_AUTHFILE,
	OPT_CACERT,
	OPT_INSECURE,
	OPT_PLAIN,
	OPT_JOBS,
	OPT_TIMEOUT,
	OPT_RETRIES,
	OPT_MAX_SIZE,
	OPT_JSON,
	OPT_HELP,
	OPT_VERSION,
};

static const struct option options[] = {
	{"store", required_argument, NULL, OPT_STORE},
	{"name", required_argument, NULL, OPT_NAME},
	{"platform", required_argument, NULL, OPT_PLATFORM},
	{"user", required_argument, NULL, 'u'},
	{"authfile", required_argument, NULL, OPT_AUTHFILE},
	{"cacert", required_argument, NULL, OPT_CACERT},
	{"insecure", no_argument, NULL, OPT_INSECURE},
	{"plain-http", no_argument, NULL, OPT_PLAIN},
	{"jobs", required_argument, NULL, OPT_JOBS},
	{"timeout", required_argument, NULL, OPT_TIMEOUT},
	{"retries", required_argument, NULL, OPT_RETRIES},
	{"max-size", required_argument, NULL, OPT_MAX_SIZE},
	{"json", no_argument, NULL, OPT_JSON},
	{"quiet", no_argument, NULL, 'q'},
	{"verbose", no_argument, NULL, 'v'},
	{"help", no_argument, NULL, OPT_HELP},
	{"version", no_argument, NULL, OPT_VERSION},
	{0},
};

static int take_option(struct command *c, int opt, struct err *err)
{
	struct registry_options *reg = &c->o.registry;
	uint64_t v = 0;
	int r = 0;

	switch (opt) {
	case OPT_STORE:
		c->store = optarg;
		break;
	case OPT_NAME:
		c->name = optarg;
		break;
	case OPT_PLATFORM:
		c->platform = optarg;
		break;
	case 'u':
		reg->userpass = optarg;
		break;
	case OPT_AUTHFILE:
		reg->authfile = optarg;
		break;
	case OPT_CACERT:
		reg->http.cacert = optarg;
		break;
	case OPT_INSECURE:
		reg->http.insecure = true;
		break;
	case OPT_PLAIN:
		reg->plain_http = true;
		break;
	case OPT_JOBS:
		r = parse_u64(optarg, 1, 64, &v, err);
		c->o.jobs = v;
		break;
	case OPT_TIMEOUT:
		r = parse_u64(optarg, 1, 3600, &v, err);
		reg->http.timeout = v;
		break;
	case OPT_RETRIES:
		r = parse_u64(optarg, 0, 100, &v, err);
		reg->http.attempts = v + 1;
		break;
	case OPT_MAX_SIZE:
		r = parse_size(optarg, 1, TIB, &c->o.max_size, err);
		break;
	case OPT_JSON:
		c->json = true;
		break;
	case 'q':
		c->quiet = true;
		break;
	case 'v':
		log_init("smvm-pull", LOG_INFO);
		break;
	case OPT_HELP:
		fputs(usage, stdout);
		c->done = true;
		break;
	case OPT_VERSION:
		puts("smvm-pull " SMFS_VERSION);
		c->done = true;
		break;
	default:
		return err_set(err, EINVAL, "unknown option, or one without its value; see --help");
	}
	return r;
}

static int parse_command(struct command *c, int argc, char **argv, struct err *err)
{
	struct ref named;
	int opt, r = 0;

	opterr = 0;
	while (r == 0 && !c->done && (opt = getopt_long(argc, argv, "u:qv", options, NULL)) != -1)
		r = take_option(c, opt, err);
	if (r < 0 || c->done)
		return r;
	if (argc - optind != 1)
		return err_set(err, EINVAL, "one reference is needed; see --help");
	c->reference = argv[optind];
	r = platform_parse(c->platform, &c->o.platform, err);
	if (r == 0)
		r = ref_parse(c->reference, &c->o.ref, err);
	if (r == 0 && c->name) {
		r = ref_parse(c->name, &named, err);
		if (r == 0 && (named.kind != REF_REGISTRY || named.has_digest))
			r = err_set(err, EINVAL, "name %.200s: write [REGISTRY/]REPOSITORY[:TAG]",
				    c->name);
	}
	return r == 0 ? ref_image_name(c->name ? &named : &c->o.ref, c->o.name, err) : r;
}

/* One at a time through the making of a store, or the second finds it half made. -1 when nothing
 * can be locked. */
static int lock_parent(const char *dir)
{
	cleanup_free char *copy = strdup(dir);
	int fd = copy ? open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

	if (fd >= 0 && flock(fd, LOCK_EX) < 0)
		log_info("lock the folder of %s: %s", dir, strerror(errno));
	return fd;
}

/* A store that is not there yet is made: the common case needs no other command first. */
static int open_store(const struct command *c, struct smfs_store **out, struct err *err)
{
	const char *dir = c->store ? c->store : getenv("SMFS_STORE");
	int r;

	if (!dir || !*dir)
		dir = SMFS_DEFAULT_STORE;
	cleanup_fd int lock = lock_parent(dir);

	if (access(dir, F_OK) < 0 && errno == ENOENT) {
		r = smfs_store_init(dir, err);
		if (r < 0)
			return r;
	}
	return smfs_store_open(dir, 0, out, err);
}

/* The first signal ends the pull in order, the second at once. */
static void *watch_signals(void *arg)
{
	struct cancel *cancel = arg;
	sigset_t set;
	int sig;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	if (sigwait(&set, &sig) == 0)
		cancel_now(cancel);
	if (sigwait(&set, &sig) == 0)
		_exit(128 + sig);
	return NULL;
}

static int start_signals(struct cancel *cancel, struct err *err)
{
	pthread_t thread;
	sigset_t set;
	int r;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	r = pthread_create(&thread, NULL, watch_signals, cancel);
	if (r)
		return err_set(err, r, "start a thread: %s", strerror(r));
	pthread_detach(thread);
	return 0;
}

static void print_json(const struct command *c, const struct pull_result *res, double seconds)
{
	char manifest[DIGEST_STR_MAX], source[DIGEST_STR_MAX], platform[3 * PLATFORM_FIELD + 3];
	json_t *j =
		json_pack("{ss ss ss ss sb si si sI sI sI sI sI sf}", "name", c->o.name, "digest",
			  digest_format(&res->source, source), "manifest",
			  digest_format(&res->manifest, manifest), "platform",
			  platform_format(&c->o.platform, platform), "up_to_date", res->up_to_date,
			  "layers", (int)res->layers, "layers_reused", (int)res->layers_reused,
			  "downloaded_bytes", (json_int_t)res->downloaded, "new_bytes",
			  (json_int_t)res->new_bytes, "stored_bytes", (json_int_t)res->stored_bytes,
			  "erofs_bytes", (json_int_t)res->erofs_bytes, "erofs_shared_bytes",
			  (json_int_t)res->erofs_dup_bytes, "seconds", seconds);

	json_dumpf(j, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
	putchar('\n');
	json_decref(j);
}

static void print_summary(const struct command *c, const struct pull_result *res, double seconds)
{
	char digest[DIGEST_STR_MAX], got[SIZE_STR_MAX], stored[SIZE_STR_MAX];

	digest_format(&res->source, digest);
	if (res->up_to_date)
		printf("%s: up to date, %s\n", c->o.name, digest);
	else
		printf("%s: pulled %s: %u layers (%u there already), %s downloaded, %s stored, "
		       "%.1f s\n",
		       c->o.name, digest, res->layers, res->layers_reused,
		       format_size(res->downloaded, got), format_size(res->stored_bytes, stored),
		       seconds);
}

static int pull(const struct command *c, struct cancel *cancel, struct err *err)
{
	struct pull_counters counters = {0};
	struct pull_line line = {.c = &counters, .name = c->o.name};
	struct timespec t0, t1;
	struct pull_result res;
	struct smfs_store *s;
	struct progress *bar;
	int r = open_store(c, &s, err);

	if (r < 0)
		return r;
	clock_gettime(CLOCK_MONOTONIC, &t0);
	line.begun = t0;
	bar = progress_start(c->quiet || c->json, 0, pull_line_draw, &line);
	r = pull_image(s, &c->o, cancel, &counters, &res, err);
	progress_stop(bar);
	clock_gettime(CLOCK_MONOTONIC, &t1);
	smfs_store_close(s);
	if (r < 0)
		return r;
	double seconds = t1.tv_sec - t0.tv_sec + (t1.tv_nsec - t0.tv_nsec) / 1e9;

	if (c->json)
		print_json(c, &res, seconds);
	else if (!c->quiet)
		print_summary(c, &res, seconds);
	return 0;
}

int main(int argc, char **argv)
{
	struct command c = {
		.platform = DEFAULT_PLATFORM,
		.o = {.jobs = DEFAULT_JOBS,
		      .max_size = DEFAULT_MAX_SIZE,
		      .registry.http = {.timeout = DEFAULT_TIMEOUT,
					.attempts = DEFAULT_RETRIES + 1}},
	};
	struct err err = ERR_INIT;
	struct cancel cancel;
	int r;

	log_init("smvm-pull", LOG_WARN);
	/* libarchive takes archive names for text of the locale; UTF-8 is what they are. */
	setlocale(LC_CTYPE, "C.UTF-8");
	r = parse_command(&c, argc, argv, &err);
	if (r == 0 && c.done)
		return EXIT_OK;
	if (r == 0)
		r = erofs_isolate(&err);
	if (r == 0)
		r = cancel_init(&cancel, &err);
	if (r == 0)
		r = start_signals(&cancel, &err);
	if (r == 0 && curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
		r = err_set(&err, EIO, "start libcurl");
	c.o.registry.http.cancel = &cancel;
	if (r == 0)
		r = pull(&c, &cancel, &err);
	if (r < 0) {
		fprintf(stderr, "smvm-pull: %s\n", err.msg);
		return err_exit_code(err.code);
	}
	return EXIT_OK;
}
