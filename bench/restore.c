/*
 * restore RUNNER FLOOR MOUNT ITERATIONS NAME=NONCE=SNAPSHOT-DIR... - from process start to the
 * first sign of life of the guest, smvm-runner against the bare floor.
 *
 * The snapshots are of tests/guest/counter with different RAM sizes; NAME is for the figures, NONCE
 * is what each guest said when it was booted, and nothing but its RAM knows. One iteration starts
 * the floor on the first snapshot's `ram` and `smvm-runner restore -f` on each, in turn, so that
 * all see the same machine. A figure is the time from before the process is started until the first
 * byte the guest writes on its serial port has arrived here through a pipe. The line must then
 * carry the nonce, or the bench fails: what spoke first was the guest's restored RAM.
 *
 * Lines as DESIGN.md section 9 has them; head lines start with '#'.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_DIRS   8
#define WARM_UP	   3
#define TIMEOUT_MS 20000
#define SETTLE_US  150000
#define LIMIT	   1.5
#define LIMIT_P99  3.0
#define SAME	   0.10

extern char **environ;

struct series {
	const char *name, *nonce, *dir;
	double *us;
	int n;
};

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void die(const char *what)
{
	fprintf(stderr, "restore bench: %s: %s\n", what, strerror(errno));
	exit(2);
}

/* A byte, or -1 at end of file; a guest that says nothing within the timeout is a failure. */
static int read_byte(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	unsigned char c;

	if (poll(&p, 1, TIMEOUT_MS) != 1)
		return -1;
	return read(fd, &c, 1) == 1 ? c : -1;
}

/*
 * Start argv, time its first byte, check that its first whole line ends in `nonce`. With `quit`
 * the guest is asked to power off and the exit status must be 0; otherwise the process is killed.
 */
static double first_byte(char *const argv[], const char *nonce, bool quit)
{
	posix_spawn_file_actions_t fa;
	int out[2], in[2], c, status;
	char line[256];
	size_t n = 0;
	double t0, us;
	pid_t pid;

	if (pipe2(out, O_CLOEXEC) < 0 || pipe2(in, O_CLOEXEC) < 0)
		die("pipe");
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_adddup2(&fa, in[0], 0);
	posix_spawn_file_actions_adddup2(&fa, out[1], 1);
	/* A VM's teardown goes on in the kernel for 7-15 ms after its process is gone, and would be
	 * charged to whoever comes next. */
	usleep(SETTLE_US);
	t0 = now_us();
	errno = posix_spawn(&pid, argv[0], &fa, NULL, argv, environ);
	if (errno)
		die(argv[0]);
	close(out[1]);
	close(in[0]);
	c = read_byte(out[0]);
	us = now_us() - t0;
	posix_spawn_file_actions_destroy(&fa);
	while (c >= 0 && c != '\n' && n < sizeof(line) - 1) {
		line[n++] = (char)c;
		c = read_byte(out[0]);
	}
	line[n] = 0;
	if (c != '\n' || n < strlen(nonce) || strcmp(line + n - strlen(nonce), nonce) != 0) {
		kill(pid, SIGKILL);
		fprintf(stderr, "restore bench: %s: the guest said \"%s\", not the nonce %s\n",
			argv[0], line, nonce);
		exit(1);
	}
	if (quit && write(in[1], "q", 1) != 1)
		die("ask the guest to power off");
	if (!quit)
		kill(pid, SIGKILL);
	while (read_byte(out[0]) >= 0)
		;
	close(out[0]);
	close(in[1]);
	if (waitpid(pid, &status, 0) != pid)
		die("wait");
	if (quit && status != 0) {
		fprintf(stderr, "restore bench: %s ended with status 0x%x\n", argv[0], status);
		exit(1);
	}
	return us;
}

static int by_value(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double percentile(struct series *s, double p)
{
	qsort(s->us, (size_t)s->n, sizeof(*s->us), by_value);
	return s->us[(int)(p * (s->n - 1) + 0.5)];
}

static void report(const char *name, double value, double ratio, const char *against,
		   const char *limit, bool ok)
{
	printf("%s\t%.0f\tus\t%.2f\t%s\t%s\t%s\n", name, value, ratio, against, limit,
	       ok ? "ok" : "MISS");
}

int main(int argc, char **argv)
{
	struct series floor = {0}, run[MAX_DIRS] = {0};
	int iterations, ndirs = argc - 5;
	char ram[4096];
	double floor50, floor99, first50 = 0;

	if (ndirs < 1 || ndirs > MAX_DIRS || (iterations = atoi(argv[4])) < 1) {
		fprintf(stderr,
			"usage: restore RUNNER FLOOR MOUNT ITERATIONS NAME=NONCE=SNAPSHOT-DIR...\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	floor.us = calloc((size_t)iterations, sizeof(double));
	for (int d = 0; d < ndirs; d++) {
		run[d].name = strtok(argv[5 + d], "=");
		run[d].nonce = strtok(NULL, "=");
		run[d].dir = strtok(NULL, "");
		run[d].us = calloc((size_t)iterations, sizeof(double));
		if (!run[d].us || !floor.us || !run[d].dir)
			die("memory, or an argument without '='");
	}
	snprintf(ram, sizeof(ram), "%s/ram", run[0].dir);
	for (int i = -WARM_UP; i < iterations; i++) {
		/* Each takes its turn at being first: what a predecessor leaves behind is shared.
		 */
		for (int k = 0; k <= ndirs; k++) {
			const int d = (i + WARM_UP + k) % (ndirs + 1) - 1;
			struct series *s = d < 0 ? &floor : &run[d];
			char *const floor_argv[] = {argv[2], ram, NULL};
			char *const run_argv[] = {argv[1], "restore",
						  "-f",	   "--mount",
						  argv[3], d < 0 ? NULL : (char *)run[d].dir,
						  NULL};
			const double us = first_byte(d < 0 ? floor_argv : run_argv,
						     run[d < 0 ? 0 : d].nonce, d >= 0);

			if (i >= 0)
				s->us[s->n++] = us;
		}
	}

	floor50 = percentile(&floor, 0.5);
	floor99 = percentile(&floor, 0.99);
	printf("restore-floor-p50\t%.0f\tus\t1.00\t-\t-\tok\n", floor50);
	printf("restore-floor-best\t%.0f\tus\t1.00\t-\t-\tok\n", percentile(&floor, 0));
	printf("restore-floor-p99\t%.0f\tus\t1.00\t-\t-\tok\n", floor99);
	for (int d = 0; d < ndirs; d++) {
		const double p50 = percentile(&run[d], 0.5), p99 = percentile(&run[d], 0.99);
		char name[64];

		snprintf(name, sizeof(name), "restore-%s-p50", run[d].name);
		report(name, p50, p50 / floor50, "floor p50", "<=1.5", p50 <= LIMIT * floor50);
		/* Of a busy machine it says more than the median does. */
		snprintf(name, sizeof(name), "restore-%s-best", run[d].name);
		report(name, percentile(&run[d], 0), percentile(&run[d], 0) / percentile(&floor, 0),
		       "floor best", "-", true);
		snprintf(name, sizeof(name), "restore-%s-p99", run[d].name);
		report(name, p99, p99 / floor99, "floor p99", "<=3", p99 <= LIMIT_P99 * floor99);
		if (d == 0) {
			first50 = p50;
			continue;
		}
		snprintf(name, sizeof(name), "restore-%s-over-%s", run[d].name, run[0].name);
		report(name, p50, p50 / first50, "the first's p50", "<=1.1",
		       p50 <= (1 + SAME) * first50);
	}
	return 0;
}
