/*
 * Files and trees between a host and a guest: the agent's own code against the client, and
 * hand-made streams of a guest that means harm against the host's receiver.
 */
#include "tests/unit/agent_session.h"

#include "runner/proto/tree.h"
#include "smfs/base/cleanup.h"

#include <pthread.h>
#include <sys/sysmacros.h>

static char host[64]; /* the host's folder, beside the guest's root */

static int setup_files(void **state)
{
	strcpy(host, "/tmp/agent-host.XXXXXX");
	assert_non_null(mkdtemp(host));
	return setup(state);
}

static int teardown_files(void **state)
{
	char cmd[256];

	snprintf(cmd, sizeof(cmd), "chmod -R u+rwx %s; rm -rf %s", host, host);
	assert_int_equal(system(cmd), 0);
	return teardown(state);
}

/* ${H} is the host's folder, ${G} the guest's root. */
static int sh(struct fixture *x, const char *script)
{
	setenv("H", host, 1);
	setenv("G", x->root, 1);
	return system(script);
}

static int host_dir(void)
{
	int fd = open(host, O_PATH | O_DIRECTORY | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

/* ---- one file ----------------------------------------------------------------------------------
 */

static int memory(const void *data, size_t len)
{
	int fd = memfd_create("test", MFD_CLOEXEC);

	assert_int_equal(write_full(fd, data, len), 0);
	lseek(fd, 0, SEEK_SET);
	return fd;
}

static void a_file_is_written_and_read(void **state)
{
	struct fixture *x = *state;
	struct agent_write q = {.path = "/new/deep/file", .mode = 04640, .parents = true};
	const size_t n = 300001;
	char *data = malloc(n), *back = malloc(n);
	struct agent *a = begin(x);
	struct agent_opened o;
	struct agent_done d;
	struct err e = ERR_INIT;

	for (size_t i = 0; i < n; i++)
		data[i] = (char)(i * 31 >> 3);
	cleanup_fd int in = memory(data, n), out = memory("", 0);
	if (agent_file_write(a, &q, in, &d, &e) < 0)
		fail_msg("%s", e.msg);
	assert_int_equal(d.bytes, n);
	/* The same connection takes the next request. */
	if (agent_file_read(a, "/new/deep/file", 0, UINT64_MAX, UINT64_MAX, out, &o, &d, &e) < 0)
		fail_msg("%s", e.msg);
	assert_int_equal(o.size, n);
	assert_int_equal(o.mode, 04640);
	assert_int_equal(pread_full(out, back, n, 0), 0);
	assert_memory_equal(data, back, n);
	assert_int_equal(ftruncate(out, 0), 0);
	lseek(out, 0, SEEK_SET);
	assert_int_equal(
		agent_file_read(a, "/new/deep/file", 1000, 70000, UINT64_MAX, out, NULL, &d, &e),
		0);
	assert_int_equal(d.bytes, 70000);
	assert_int_equal(pread_full(out, back, 70000, 0), 0);
	assert_memory_equal(data + 1000, back, 70000);
	/* Beyond the end there is nothing. */
	assert_int_equal(
		agent_file_read(a, "/new/deep/file", n + 5, 10, UINT64_MAX, out, NULL, &d, &e), 0);
	assert_int_equal(lseek(out, 0, SEEK_CUR), 70000);
	end(x, a);
	free(data);
	free(back);
}

static void more_than_was_allowed_is_not_taken(void **state)
{
	struct fixture *x = *state;
	cleanup_fd int out = memory("", 0);
	struct agent *a;
	struct agent_done d;
	struct err e = ERR_INIT;

	assert_int_equal(sh(x, "head -c 100000 /dev/zero >$G/f"), 0);
	a = begin(x);
	assert_int_equal(agent_file_read(a, "/f", 0, UINT64_MAX, 100000, out, NULL, &d, &e), 0);
	assert_int_equal(d.bytes, 100000);
	end(x, a);
	a = begin(x);
	assert_int_equal(agent_file_read(a, "/f", 0, UINT64_MAX, 99999, out, NULL, &d, &e), -EFBIG);
	assert_true(lseek(out, 0, SEEK_CUR) <= 100000 + 99999);
	end(x, a);
}

static void what_is_no_file_is_refused(void **state)
{
	struct fixture *x = *state;
	cleanup_fd int out = memory("", 0);
	struct agent *a = begin(x);
	struct agent_done d;
	struct err e = ERR_INIT;

	assert_int_equal(sh(x, "mkfifo $G/fifo; mkdir $G/dir"), 0);
	assert_int_equal(agent_file_read(a, "/none", 0, 1, UINT64_MAX, out, NULL, &d, &e), -ENOENT);
	assert_int_equal(agent_file_read(a, "/dir", 0, 1, UINT64_MAX, out, NULL, &d, &e), -EISDIR);
	assert_int_equal(agent_file_read(a, "/fifo", 0, 1, UINT64_MAX, out, NULL, &d, &e), -EINVAL);
	assert_int_equal(agent_file_read(a, "rel", 0, 1, UINT64_MAX, out, NULL, &d, &e), -EINVAL);
	end(x, a);
}

/* The old content is there until the new one is, and a link is replaced rather than followed. */
static void writing_is_atomic(void **state)
{
	struct fixture *x = *state;
	struct agent_write q = {.path = "/f", .mode = 0600};
	struct writer hello = WRITER_INIT, w = WRITER_INIT;
	struct agent_frame f = {0};
	cleanup_fd int in = memory("fresh", 5);
	struct agent_done d;
	struct err e = ERR_INIT;
	int fd = begin_raw(x);

	assert_int_equal(sh(x, "printf old >$G/victim; ln -s victim $G/f"), 0);
	agent_put_hello(&hello);
	agent_put_write(&w, &q);
	assert_int_equal(agent_frame_send(fd, AGENT_HELLO, &hello, MS, &e), 0);
	assert_int_equal(agent_frame_read(fd, &f, MS, &e), 0);
	assert_int_equal(agent_frame_send(fd, AGENT_WRITE, &w, MS, &e), 0);
	assert_int_equal(agent_frame_read(fd, &f, MS, &e), 0);
	assert_int_equal(f.type, AGENT_OPENED);
	assert_int_equal(agent_frame_write(fd, AGENT_DATA, "half", 4, MS, &e), 0);
	close(fd);
	ended(x);
	assert_int_equal(sh(x, "[ $(cat $G/f) = old ] && [ $(ls -A $G | wc -l) = 2 ]"), 0);
	struct agent *a = begin(x);
	assert_int_equal(agent_file_write(a, &q, in, &d, &e), 0);
	end(x, a);
	assert_int_equal(sh(x, "[ $(cat $G/f) = fresh ] && [ $(cat $G/victim) = old ] && "
			       "[ $(stat -c %a $G/f) = 600 ] && [ $(ls -A $G | wc -l) = 2 ]"),
			 0);
	agent_frame_free(&f);
	writer_free(&hello);
	writer_free(&w);
}

/* A link of the guest's leads inside the guest, however it is written. */
static void links_stay_inside_the_root(void **state)
{
	struct fixture *x = *state;
	struct agent_write q = {.path = "/up/passwd", .mode = 0600};
	cleanup_fd int in = memory("guest", 5), out = memory("", 0);
	struct agent *a = begin(x);
	struct agent_done d;
	struct err e = ERR_INIT;

	assert_int_equal(sh(x, "mkdir $G/etc; ln -s /etc $G/abs; ln -s ../../../../etc $G/up"), 0);
	assert_int_equal(agent_file_write(a, &q, in, &d, &e), 0);
	assert_int_equal(sh(x, "[ $(cat $G/etc/passwd) = guest ]"), 0);
	assert_int_equal(agent_file_read(a, "/abs/passwd", 0, 99, UINT64_MAX, out, NULL, &d, &e),
			 0);
	assert_int_equal(d.bytes, 5);
	end(x, a);
}

/* ---- trees -------------------------------------------------------------------------------------
 */

static const struct tree_policy plain = {.max_bytes = 64u << 20, .max_entries = 10000};

static int put_tree(struct fixture *x, const char *what, const char *path, bool owners,
		    struct err *e)
{
	struct agent_put q = {.owners = owners};
	cleanup_fd int dirfd = host_dir();
	struct agent *a = begin(x);
	struct agent_done d;
	int r;

	snprintf(q.path, sizeof(q.path), "%s", path);
	snprintf(q.name, sizeof(q.name), "%s", what);
	r = agent_put(a, dirfd, what, &q, &d, e);
	end(x, a);
	return r;
}

static int fetch_tree(struct fixture *x, const char *path, const char *as,
		      const struct tree_policy *p, struct agent_done *d, struct err *e)
{
	cleanup_fd int dirfd = host_dir();
	struct agent *a = begin(x);
	int r = agent_fetch(a, path, dirfd, as, p, d, e);

	end(x, a);
	return r;
}

static void a_tree_goes_in_and_out(void **state)
{
	struct fixture *x = *state;
	struct tree_policy archive = plain;
	struct agent_done d;
	struct err e = ERR_INIT;

	archive.owners = true;
	assert_int_equal(
		sh(x, "mkdir -p $H/t/a/b $H/t/empty; cd $H/t; echo one >a/one; ln a/one a/b/again; "
		      "ln -s /etc/passwd a/link; ln -s no/where dangling; "
		      "head -c 200000 /dev/urandom >a/b/big; truncate -s 3M sparse; : >nothing; "
		      "echo x >\"$(printf 'odd\\nname')\"; chmod 4755 a/one; chmod 500 a/b; "
		      "touch -d '2001-02-03 04:05:06.789' a/b/big a"),
		0);
	if (put_tree(x, "t", "/", true, &e) < 0)
		fail_msg("%s", e.msg);
	assert_int_equal(sh(x, "diff -r --no-dereference $H/t $G/t"), 0);
	if (fetch_tree(x, "/t", "back", &archive, &d, &e) < 0)
		fail_msg("%s", e.msg);
	assert_int_equal(d.entries, 12);
	assert_int_equal(sh(x, "diff -r --no-dereference $H/t $H/back && "
			       "cd $H/back && [ a/one -ef a/b/again ] && "
			       "[ $(stat -c %a a/one) = 4755 ] && [ $(stat -c %a a/b) = 500 ] && "
			       "[ $(stat -c %Y a) = $(stat -c %Y ../t/a) ] && "
			       "[ \"$(stat -c %y a/b/big)\" = \"$(stat -c %y ../t/a/b/big)\" ] && "
			       "[ $(stat -c %b sparse) -lt 64 ] && "
			       "! find $H/back -name '.smvm*' | grep ."),
			 0);
	/* Without -a: no setuid; onto what is there: replaced, and what else is there stays. */
	assert_int_equal(sh(x, "chmod 755 $H/back/a/b; echo mine >$H/back/mine"), 0);
	if (fetch_tree(x, "/t", "back", &plain, &d, &e) < 0)
		fail_msg("%s", e.msg);
	assert_int_equal(sh(x, "[ $(stat -c %a $H/back/a/one) = 755 ] && [ -f $H/back/mine ]"), 0);
}

static void a_destination_is_a_folder_or_a_name(void **state)
{
	struct fixture *x = *state;
	struct err e = ERR_INIT;

	assert_int_equal(sh(x, "echo f >$H/f; mkdir $H/d; echo g >$H/d/g; mkdir $G/in"), 0);
	assert_int_equal(put_tree(x, "f", "/in", false, &e), 0);
	assert_int_equal(put_tree(x, "f", "/in/", false, &e), 0);
	assert_int_equal(put_tree(x, "f", "/in/called", false, &e), 0);
	assert_int_equal(put_tree(x, "d", "/in/dir", false, &e), 0);
	assert_int_equal(put_tree(x, "d", "/in/dir", false, &e), 0);
	assert_int_equal(
		sh(x, "cd $G/in && [ -f f ] && [ -f called ] && [ -f dir/g ] && [ -f dir/d/g ]"),
		0);
	assert_int_equal(put_tree(x, "f", "/none/x", false, &e), -ENOENT);
	assert_int_equal(put_tree(x, "f", "/none/", false, &e), -ENOENT);
	assert_int_equal(put_tree(x, "f", "/in/f/", false, &e), -ENOTDIR);
	/* A file where a folder is, and the other way about. */
	assert_int_equal(sh(x, "mkdir $G/in2 $G/in2/f; : >$G/in2/d"), 0);
	assert_int_equal(put_tree(x, "f", "/in2", false, &e), -EISDIR);
	assert_int_equal(put_tree(x, "d", "/in2", false, &e), -EEXIST);
}

/* Through a link that leads out of the destination nothing is written, in the guest either. */
static void nothing_goes_through_a_link(void **state)
{
	struct fixture *x = *state;
	struct agent_done d;
	struct err e = ERR_INIT;

	assert_int_equal(sh(x, "mkdir -p $G/t/sub $H/t $H/elsewhere; echo x >$G/t/sub/file; "
			       "ln -s ../elsewhere $H/t/sub"),
			 0);
	assert_int_equal(fetch_tree(x, "/t", "t", &plain, &d, &e), -EEXIST);
	assert_int_equal(sh(x, "[ -z \"$(ls $H/elsewhere)\" ]"), 0);
}

static void limits_hold(void **state)
{
	struct fixture *x = *state;
	struct tree_policy small = plain;
	struct agent_done d;
	struct err e = ERR_INIT;

	assert_int_equal(sh(x, "mkdir $G/t; for i in 1 2 3 4; do echo 12345 >$G/t/$i; done"), 0);
	small.max_entries = 4;
	assert_int_equal(fetch_tree(x, "/t", "t", &small, &d, &e), -E2BIG);
	small = plain;
	small.max_bytes = 23;
	assert_int_equal(fetch_tree(x, "/t", "t2", &small, &d, &e), -EFBIG);
	small.max_bytes = 24;
	assert_int_equal(fetch_tree(x, "/t", "t3", &small, &d, &e), 0);
}

static void special_files(void **state)
{
	struct fixture *x = *state;
	struct agent_done d;
	struct err e = ERR_INIT;

	if (getuid() != 0)
		skip();
	assert_int_equal(sh(x, "mkdir $H/t; mkfifo $H/t/fifo"), 0);
	assert_int_equal(put_tree(x, "t", "/", false, &e), 0);
	assert_int_equal(sh(x, "[ -p $G/t/fifo ]"), 0);
	/* On this side none are made. */
	assert_int_equal(fetch_tree(x, "/t", "back", &plain, &d, &e), 0);
	assert_int_equal(d.skipped, 1);
	assert_int_equal(sh(x, "[ -z \"$(ls $H/back)\" ]"), 0);
}

/* What fails in the guest is said here, however much is still to be sent. */
static void a_failure_there_is_told(void **state)
{
	struct fixture *x = *state;
	struct err e = ERR_INIT;

	assert_int_equal(sh(x, "mkdir -p $H/t $G/in/t/b; echo >$H/t/a; : >$H/t/b; "
			       "truncate -s 64M $H/t/c"),
			 0);
	assert_int_equal(put_tree(x, "t", "/in", false, &e), -EISDIR);
	assert_non_null(strstr(e.msg, "guest: "));
}

/* ---- a hostile guest
 * ----------------------------------------------------------------------------- */

struct script {
	int fd;
	const struct agent_entry *e;
	unsigned n;
};

static void say_entry(int fd, const struct agent_entry *x)
{
	struct writer w = WRITER_INIT;

	agent_put_entry(&w, x);
	agent_frame_send(fd, AGENT_ENTRY, &w, MS, NULL);
	writer_free(&w);
	for (uint64_t i = 0; i < x->size; i++)
		agent_frame_write(fd, AGENT_DATA, "!", 1, MS, NULL);
}

static void *say(void *arg)
{
	const struct agent_done none = {0};
	struct script *s = arg;
	struct writer w = WRITER_INIT;

	for (unsigned i = 0; i < s->n; i++)
		say_entry(s->fd, &s->e[i]);
	agent_put_done(&w, &none);
	agent_frame_send(s->fd, AGENT_DONE, &w, MS, NULL);
	writer_free(&w);
	shutdown(s->fd, SHUT_WR);
	return NULL;
}

static int receive(const struct agent_entry *list, unsigned n, struct err *e)
{
	struct tree_policy p = plain;
	struct agent_frame f = {0};
	cleanup_fd int dirfd = host_dir();
	struct agent_done d;
	pthread_t t;
	int s[2], r;

	p.idle_ms = 5000;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
	struct script script = {.fd = s[1], .e = list, .n = n};
	assert_int_equal(pthread_create(&t, NULL, say, &script), 0);
	r = tree_receive(s[0], &f, dirfd, "t", &p, &d, e);
	close(s[0]);
	pthread_join(t, NULL);
	close(s[1]);
	agent_frame_free(&f);
	return r;
}

#define DIR(p)                                             \
	{                                                  \
		.path = p, .type = ENTRY_DIR, .mode = 0755 \
	}
#define BYTE(p)                                                        \
	{                                                              \
		.path = p, .type = ENTRY_FILE, .mode = 0644, .size = 1 \
	}
#define LINK(p, t)                                                          \
	{                                                                   \
		.path = p, .type = ENTRY_SYMLINK, .mode = 0777, .target = t \
	}
#define HARD(p, t)                                                           \
	{                                                                    \
		.path = p, .type = ENTRY_HARDLINK, .mode = 0644, .target = t \
	}
#define REFUSED(...)                                                                               \
	do {                                                                                       \
		const struct agent_entry list_[] = {__VA_ARGS__};                                  \
		struct err e_ = ERR_INIT;                                                          \
		assert_int_equal(sh(*state, "rm -rf $H/t"), 0);                                    \
		assert_true(receive(list_, ARRAY_SIZE(list_), &e_) < 0);                           \
		assert_true(e_.msg[0] != '\0');                                                    \
		/* Whatever arrived is below t, and what was outside is whole. */                  \
		assert_int_equal(sh(*state, "[ $(cat $H/out) = whole ] && "                        \
					    "[ -z \"$(ls -A $H | grep -vx t | grep -vx out)\" ]"), \
				 0);                                                               \
	} while (0)

static void a_hostile_tree_stays_below_its_top(void **state)
{
	assert_int_equal(sh(*state, "printf whole >$H/out"), 0);
	REFUSED(DIR(""), BYTE("../out"));
	REFUSED(DIR(""), BYTE("/tmp/smvm-escaped"));
	REFUSED(DIR(""), BYTE("a/../../out"));
	REFUSED(DIR(""), BYTE("./a"));
	REFUSED(DIR(""), BYTE("a//b"));
	REFUSED(DIR(""), BYTE("a/"));
	REFUSED(DIR(""), BYTE("no/folder"));
	REFUSED(DIR(""), LINK("l", ".."), BYTE("l/out"));
	REFUSED(DIR(""), LINK("l", "/"), BYTE("l/out"));
	REFUSED(DIR(""), LINK("l", "."), BYTE("l/inside"));
	REFUSED(DIR(""), DIR("d"), LINK("d/l", "../.."), BYTE("d/l/out"));
	REFUSED(DIR(""), LINK("l", ".."), DIR("l"), BYTE("l/out"));
	REFUSED(DIR(""), HARD("h", "../out"));
	REFUSED(DIR(""), LINK("l", "../out"), HARD("h", "l"));
	REFUSED(DIR(""), LINK("l", ".."), HARD("h", "l/out"));
	REFUSED(LINK("", ".."), BYTE("out"));
	REFUSED(BYTE(""), BYTE("x"));
	REFUSED(DIR(""), DIR(""));
	REFUSED(BYTE("x"));
	REFUSED(HARD("", "x"));
}

/* The top is a link: it is made as one, and nothing after it can be. */
static void links_are_only_replaced(void **state)
{
	static const struct agent_entry over[] = {DIR(""), LINK("l", "../out"), BYTE("l")};
	struct err e = ERR_INIT;

	assert_int_equal(sh(*state, "printf whole >$H/out"), 0);
	assert_int_equal(receive(over, ARRAY_SIZE(over), &e), 0);
	assert_int_equal(
		sh(*state, "[ $(cat $H/out) = whole ] && [ ! -L $H/t/l ] && [ $(cat $H/t/l) = ! ]"),
		0);
}

/* A file is as long as its entry says: no more, and no less. */
static void content_has_its_length(void **state)
{
	const struct agent_entry liar = {.path = "", .type = ENTRY_FILE, .mode = 0644, .size = 3};
	static const char *const what[] = {"short", "long"};

	for (size_t i = 0; i < ARRAY_SIZE(what); i++) {
		struct agent_frame f = {0};
		struct tree_policy p = plain;
		cleanup_fd int dirfd = host_dir();
		struct writer w = WRITER_INIT;
		struct err e = ERR_INIT;
		struct agent_done d;
		int s[2];

		p.idle_ms = 2000;
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
		agent_put_entry(&w, &liar);
		assert_int_equal(agent_frame_send(s[1], AGENT_ENTRY, &w, MS, &e), 0);
		assert_int_equal(agent_frame_write(s[1], AGENT_DATA, "12345", i ? 5 : 2, MS, &e),
				 0);
		assert_int_equal(agent_frame_write(s[1], AGENT_DONE, NULL, 0, MS, &e), 0);
		assert_int_equal(tree_receive(s[0], &f, dirfd, what[i], &p, &d, &e), -EPROTO);
		assert_int_equal(sh(*state, "[ -z \"$(ls -A $H)\" ]"), 0);
		close(s[0]);
		close(s[1]);
		agent_frame_free(&f);
		writer_free(&w);
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup_files, teardown_files)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_file_is_written_and_read),
		T(more_than_was_allowed_is_not_taken),
		T(what_is_no_file_is_refused),
		T(writing_is_atomic),
		T(links_stay_inside_the_root),
		T(a_tree_goes_in_and_out),
		T(a_destination_is_a_folder_or_a_name),
		T(nothing_goes_through_a_link),
		T(limits_hold),
		T(special_files),
		T(a_failure_there_is_told),
		T(a_hostile_tree_stays_below_its_top),
		T(links_are_only_replaced),
		T(content_has_its_length),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
