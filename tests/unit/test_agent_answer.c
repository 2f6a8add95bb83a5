/* When an exec session is answered, and what of its request is in the socket until then. */
#include "tests/unit/agent_session.h"

#include "smfs/base/clock.h"

/* HELLO and EXEC in one piece, as who is in a hurry sends them, and what else follows. */
static int begin_at_once(struct fixture *x, const struct agent_exec *req, const void *more,
			 size_t more_len)
{
	cleanup_writer struct writer all = WRITER_INIT, hello = WRITER_INIT, exec = WRITER_INIT;
	uint8_t hdr[AGENT_FRAME_HDR];
	int fd = begin_raw(x);

	agent_put_hello(&hello);
	agent_put_exec(&exec, req);
	agent_header_put(hdr, AGENT_HELLO, (uint32_t)hello.len);
	put_bytes(&all, hdr, sizeof(hdr));
	put_bytes(&all, hello.p, hello.len);
	agent_header_put(hdr, AGENT_EXEC, (uint32_t)exec.len);
	put_bytes(&all, hdr, sizeof(hdr));
	put_bytes(&all, exec.p, exec.len);
	put_bytes(&all, more, more_len);
	assert_int_equal(send(fd, all.p, all.len, MSG_NOSIGNAL), all.len);
	return fd;
}

static void expect_frame(int fd, struct agent_frame *f, uint16_t type)
{
	struct err e = ERR_INIT;

	if (agent_frame_read(fd, f, MS, &e) < 0)
		fail_msg("%s, not %s", e.msg, agent_type_name(type));
	assert_string_equal(agent_type_name(f->type), agent_type_name(type));
}

/* How many frames there are in the first piece of an answer; the last one's type. */
static unsigned first_piece(int fd, uint16_t *last)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	uint8_t buf[4096];
	ssize_t n;
	unsigned frames = 0;
	uint32_t len;

	assert_int_equal(poll(&p, 1, MS), 1);
	n = recv(fd, buf, sizeof(buf), 0);
	for (ssize_t at = 0; at < n; at += AGENT_FRAME_HDR + (ssize_t)len, frames++)
		assert_int_equal(agent_header_parse(buf + at, last, &len, NULL), 0);
	return frames;
}

/* Tried until neither this process nor the agent had to wait for a processor for so long. */
static void that_a_short_program_runs_is_told_with_its_end(void **state)
{
	struct fixture *x = *state;
	char *argv[] = {"sleep", "0.03", NULL};
	const struct agent_exec req = {.argv = argv};
	uint16_t last = 0;

	for (int i = 0; i < 20 && last != AGENT_EXIT; i++) {
		int fd = begin_at_once(x, &req, NULL, 0);

		/* HELLO, STARTED, the ends of two outputs, EXIT. */
		if (first_piece(fd, &last) != 5)
			last = 0;
		close(fd);
		ended(x);
	}
	assert_int_equal(last, AGENT_EXIT);
}

static void that_a_long_program_runs_is_told_meanwhile(void **state)
{
	struct fixture *x = *state;
	char *argv[] = {"sleep", "60", NULL};
	const struct agent_exec req = {.argv = argv};
	const uint8_t term[4] = {SIGTERM};
	struct agent_frame f = {0};
	struct agent_exit exit;
	int fd = begin_at_once(x, &req, NULL, 0);

	expect_frame(fd, &f, AGENT_HELLO);
	expect_frame(fd, &f, AGENT_STARTED);
	assert_int_equal(agent_frame_write(fd, AGENT_SIGNAL, term, 4, MS, NULL), 0);
	do
		assert_int_equal(agent_frame_read(fd, &f, MS, NULL), 0);
	while (f.type != AGENT_EXIT);
	assert_int_equal(agent_get_exit(&f, &exit, NULL), 0);
	assert_int_equal(exit.kind, AGENT_EXIT_SIGNAL);
	agent_frame_free(&f);
	close(fd);
	ended(x);
}

/* Who may send it input is told at once: it could be waiting to. */
static void that_a_program_with_stdin_runs_is_told_at_once(void **state)
{
	struct fixture *x = *state;
	char *argv[] = {"sleep", "60", NULL};
	const struct agent_exec req = {.argv = argv, .stdin_open = true};
	bool soon = false;

	for (int i = 0; i < 20 && !soon; i++) {
		const uint64_t t = monotonic_us();
		struct agent_frame f = {0};
		int fd = begin_at_once(x, &req, NULL, 0);

		expect_frame(fd, &f, AGENT_HELLO);
		expect_frame(fd, &f, AGENT_STARTED);
		soon = monotonic_us() - t < 80000;
		agent_frame_free(&f);
		close(fd);
		ended(x);
	}
	assert_true(soon);
}

/* The request is taken out of the socket behind the answer, and nothing but it. */
static void what_is_sent_behind_a_request_is_its_programs(void **state)
{
	static const uint8_t more[] = {3,   0, 0, 0, AGENT_STDIN, 0,	       0, 0, 'o', 'n',
				       'e', 0, 0, 0, 0,		  AGENT_STDIN, 0, 0, 0};
	struct fixture *x = *state;
	char *argv[] = {"cat", NULL};
	const struct agent_exec req = {.argv = argv, .stdin_open = true};
	struct agent_frame f = {0};
	int fd = begin_at_once(x, &req, more, sizeof(more));

	expect_frame(fd, &f, AGENT_HELLO);
	expect_frame(fd, &f, AGENT_STARTED);
	expect_frame(fd, &f, AGENT_STDOUT);
	assert_int_equal(f.len, 3);
	assert_memory_equal(f.data, "one", 3);
	do
		assert_int_equal(agent_frame_read(fd, &f, MS, NULL), 0);
	while (f.type != AGENT_EXIT);
	agent_frame_free(&f);
	close(fd);
	ended(x);
}

static void what_is_sent_behind_a_refused_request_is_the_next(void **state)
{
	static const uint8_t info[] = {0, 0, 0, 0, AGENT_INFO, 0, 0, 0};
	struct fixture *x = *state;
	char *argv[] = {"/no/such/program", NULL};
	const struct agent_exec req = {.argv = argv};
	struct agent_frame f = {0};
	int fd = begin_at_once(x, &req, info, sizeof(info));

	expect_frame(fd, &f, AGENT_HELLO);
	expect_frame(fd, &f, AGENT_ERROR);
	expect_frame(fd, &f, AGENT_INFO_IS);
	agent_frame_free(&f);
	close(fd);
	ended(x);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(that_a_short_program_runs_is_told_with_its_end),
		T(that_a_long_program_runs_is_told_meanwhile),
		T(that_a_program_with_stdin_runs_is_told_at_once),
		T(what_is_sent_behind_a_request_is_its_programs),
		T(what_is_sent_behind_a_refused_request_is_the_next),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
