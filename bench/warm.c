/*
 * warm RUNNER MOUNT ITERATIONS NAME=NONCE=SNAPSHOT-DIR OTHER-DIR - a reset of a running worker's
 * machine against a restore into a new process, of one snapshot (tests/guest/counter).
 *
 * In turn: `smvm-runner restore -f`, from before the process is started until the first byte that
 * the guest writes on its serial port is here; and a worker's RESTORE, from before the request is
 * sent until the first byte of the guest is here, by a viewer of its console. The line must carry
 * the nonce, which only the snapshot's RAM knows. Also the worker's answer DONE; a reset to OTHER,
 * a later snapshot of the same guest, which has all of RAM mapped anew; and a worker started for
 * the request alone.
 *
 * Lines as DESIGN.md section 9 has them.
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
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WARM_UP	   3
#define TIMEOUT_MS 20000
#define SETTLE_US  100000
#define LIMIT	   0.6

extern char **environ;

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void die(const char *what)
{
	fprintf(stderr, "warm bench: %s: %s\n", what, errno ? strerror(errno) : "failed");
	exit(2);
}

static int read_byte(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	unsigned char c;

	if (poll(&p, 1, TIMEOUT_MS) != 1)
		return -1;
	return read(fd, &c, 1) == 1 ? c : -1;
}

/* The rest of a line whose first byte is `c`. */
static void read_line(int fd, int c, char *line, size_t room)
{
	size_t n = 0;

	for (; c >= 0 && c != '\n' && n < room - 1; c = read_byte(fd))
		if (c != '\r')
			line[n++] = (char)c;
	line[n] = 0;
	if (c != '\n')
		die("a line");
}

static void check_nonce(const char *line, const char *nonce)
{
	const size_t n = strlen(line), k = strlen(nonce);

	if (n >= k && strcmp(line + n - k, nonce) == 0)
		return;
	fprintf(stderr, "warm bench: the guest said \"%s\", not the nonce %s\n", line, nonce);
	exit(1);
}

static pid_t start(char *const argv[], int in, int out)
{
	posix_spawn_file_actions_t fa;
	pid_t pid;

	posix_spawn_file_actions_init(&fa);
	if (in >= 0)
		posix_spawn_file_actions_adddup2(&fa, in, 0);
	if (out >= 0)
		posix_spawn_file_actions_adddup2(&fa, out, 1);
	errno = posix_spawn(&pid, argv[0], &fa, NULL, argv, environ);
	if (errno)
		die(argv[0]);
	posix_spawn_file_actions_destroy(&fa);
	return pid;
}

/* ---- a process per restore ------------------------------------------------------------------ */

static double cold(char *runner, char *mount, char *dir, const char *nonce)
{
	char *const argv[] = {runner, "restore", "-f", "--mount", mount, dir, NULL};
	int out[2], in[2], c, status;
	char line[256];

	if (pipe2(out, O_CLOEXEC) < 0 || pipe2(in, O_CLOEXEC) < 0)
		die("pipe");
	usleep(SETTLE_US);
	const double t0 = now_us();
	const pid_t pid = start(argv, in[0], out[1]);
	close(out[1]);
	close(in[0]);
	c = read_byte(out[0]);
	const double us = now_us() - t0;
	read_line(out[0], c, line, sizeof(line));
	check_nonce(line, nonce);
	if (write(in[1], "q", 1) != 1)
		die("power off");
	while (read_byte(out[0]) >= 0)
		;
	close(out[0]);
	close(in[1]);
	waitpid(pid, &status, 0);
	return us;
}

/* ---- a worker ------------------------------------------------------------------------------- */

struct worker {
	pid_t pid;
	int listener, fd, console;
	char path[108];
	char dir[256]; /* its machine's */
};

static int unix_socket(const char *path, bool listens)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	if (fd < 0 || (listens ? bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 1) < 0
			       : connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0))
		die(path);
	return fd;
}

static void say(int fd, const char *line)
{
	if (write(fd, line, strlen(line)) != (ssize_t)strlen(line))
		die("write");
}

static void hear(int fd, const char *begins, char *line, size_t room)
{
	read_line(fd, read_byte(fd), line, room);
	if (strncmp(line, begins, strlen(begins)) != 0) {
		fprintf(stderr, "warm bench: \"%s\" where %s is due\n", line, begins);
		exit(1);
	}
}

static void worker_start(struct worker *w, char *runner, char *mount)
{
	char *const argv[] = {runner, "worker", "--socket", w->path, "--mount", mount, NULL};
	char line[1024];

	snprintf(w->path, sizeof(w->path), "/tmp/warm.%d", (int)getpid());
	unlink(w->path);
	w->listener = unix_socket(w->path, true);
	w->console = -1;
	w->pid = start(argv, -1, -1);
	w->fd = accept4(w->listener, NULL, NULL, SOCK_CLOEXEC);
	if (w->fd < 0)
		die("accept");
	hear(w->fd, "READY", line, sizeof(line));
}

static void worker_hello(struct worker *w)
{
	char line[1024], *dir;

	say(w->fd, "HELLO 1\n");
	hear(w->fd, "HELLO 1 ", line, sizeof(line));
	dir = strstr(line, " dir=");
	if (!dir || sscanf(dir, " dir=%255s", w->dir) != 1)
		die("HELLO without a directory");
}

/* Its console, which stays through every reset. */
static void worker_view(struct worker *w)
{
	char path[300], line[256];

	snprintf(path, sizeof(path), "%s/control.sock", w->dir);
	w->console = unix_socket(path, false);
	say(w->console, "{\"op\":\"console\"}\n");
	hear(w->console, "{\"ok\":", line, sizeof(line));
}

static void worker_end(struct worker *w)
{
	int status;

	say(w->fd, "QUIT\n");
	while (read_byte(w->fd) >= 0)
		;
	close(w->fd);
	close(w->listener);
	if (w->console >= 0)
		close(w->console);
	unlink(w->path);
	waitpid(w->pid, &status, 0);
}

static double warm(struct worker *w, const char *dir, const char *nonce, double *done_us)
{
	char request[4200], line[1024];

	snprintf(request, sizeof(request), "RESTORE %s\n", dir);
	usleep(SETTLE_US);
	const double t0 = now_us();
	say(w->fd, request);
	const int c = read_byte(w->console);
	const double us = now_us() - t0;
	hear(w->fd, "DONE ", line, sizeof(line));
	*done_us = now_us() - t0;
	if (!strstr(line, " how=warm"))
		die(line);
	read_line(w->console, c, line, sizeof(line));
	check_nonce(line, nonce);
	return us;
}

static double one_worker(char *runner, char *mount, const char *dir)
{
	char request[4200], line[1024];
	struct worker w;

	usleep(SETTLE_US);
	const double t0 = now_us();
	worker_start(&w, runner, mount);
	snprintf(request, sizeof(request), "RESTORE %s\n", dir);
	say(w.fd, request);
	hear(w.fd, "DONE ", line, sizeof(line));
	const double us = now_us() - t0;
	worker_end(&w);
	return us;
}

/* ---- figures -------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double percentile(double *us, int n, double p)
{
	qsort(us, (size_t)n, sizeof(*us), by_value);
	return us[(int)(p * (n - 1) + 0.5)];
}

static void report(const char *name, const char *what, double value, double against,
		   const char *against_name, double limit)
{
	const double ratio = value / against;

	printf("warm-%s-%s\t%.0f\tus\t%.2f\t%s\t", name, what, value, ratio, against_name);
	if (limit > 0)
		printf("<=%.1f\t%s\n", limit, ratio <= limit ? "ok" : "MISS");
	else
		printf("-\tok\n");
}

int main(int argc, char **argv)
{
	const int n = argc == 6 ? atoi(argv[3]) : 0;
	double *us[5], c50, d, unused;
	char first[1024], request[4200];
	struct worker w;

	if (n < 1) {
		fprintf(stderr,
			"usage: warm RUNNER MOUNT ITERATIONS NAME=NONCE=SNAPSHOT-DIR OTHER-DIR\n");
		return 2;
	}
	char *const name = strtok(argv[4], "="), *const nonce = strtok(NULL, "="),
		    *const dir = strtok(NULL, "");
	if (!dir)
		die("an argument without '='");
	signal(SIGPIPE, SIG_IGN);
	for (int i = 0; i < 5; i++)
		if (!(us[i] = calloc((size_t)n, sizeof(double))))
			die("memory");
	for (int i = 0; i < n; i++)
		us[3][i] = one_worker(argv[1], argv[2], dir);
	worker_start(&w, argv[1], argv[2]);
	worker_hello(&w);
	snprintf(request, sizeof(request), "RESTORE %s\n", dir);
	say(w.fd, request);
	hear(w.fd, "DONE ", first, sizeof(first));
	worker_view(&w);
	for (int i = -WARM_UP; i < n; i++) {
		const int k = i < 0 ? 0 : i;

		us[0][k] = cold(argv[1], argv[2], dir, nonce);
		us[1][k] = warm(&w, dir, nonce, &d);
		us[2][k] = d;
		us[4][k] = warm(&w, argv[5], nonce, &unused);
		warm(&w, dir, nonce, &unused);
	}
	worker_end(&w);
	c50 = percentile(us[0], n, 0.5);
	printf("warm-%s-cold-p50\t%.0f\tus\t1.00\t-\t-\tok\n", name, c50);
	report(name, "p50", percentile(us[1], n, 0.5), c50, "cold p50", LIMIT);
	report(name, "best", percentile(us[1], n, 0), percentile(us[0], n, 0), "cold best", 0);
	report(name, "p99", percentile(us[1], n, 0.99), percentile(us[0], n, 0.99), "cold p99", 0);
	report(name, "other-p50", percentile(us[4], n, 0.5), c50, "cold p50", LIMIT);
	report(name, "done-p50", percentile(us[2], n, 0.5), c50, "cold p50", 0);
	report(name, "new-worker-p50", percentile(us[3], n, 0.5), c50, "cold p50", 0);
	return 0;
}
