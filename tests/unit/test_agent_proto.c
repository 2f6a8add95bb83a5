/* The agent protocol's encodings: what is written is read back, and nothing else is accepted. */
#include "runner/proto/agent.h"
#include "runner/proto/bootconf.h"
#include "runner/proto/mailbox.h"
#include "runner/proto/tlv.h"

#include "smfs/base/num.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static struct agent_frame frame_of(uint16_t type, const struct writer *w)
{
	assert_false(w->failed);
	return (struct agent_frame){.type = type, .len = (uint32_t)w->len, .data = w->p};
}

static void exec_round_trip(void **state)
{
	char *argv[] = {"prog", "", "a b", NULL}, *env[] = {"A=1", "B=", NULL};
	struct agent_exec in = {.argv = argv,
				.env = env,
				.cwd = "/srv",
				.user = "app:staff",
				.tty = true,
				.stdin_open = true,
				.rows = 24,
				.cols = 80,
				.timeout_ms = 1500};
	struct agent_exec out;
	cleanup_writer struct writer w = WRITER_INIT;
	struct err e = ERR_INIT;

	agent_put_exec(&w, &in);
	struct agent_frame f = frame_of(AGENT_EXEC, &w);
	assert_int_equal(agent_get_exec(&f, &out, &e), 0);
	for (int i = 0; i < 3; i++)
		assert_string_equal(out.argv[i], argv[i]);
	assert_null(out.argv[3]);
	assert_string_equal(out.env[0], "A=1");
	assert_string_equal(out.env[1], "B=");
	assert_null(out.env[2]);
	assert_string_equal(out.cwd, "/srv");
	assert_string_equal(out.user, "app:staff");
	assert_true(out.tty && out.stdin_open);
	assert_int_equal(out.rows, 24);
	assert_int_equal(out.cols, 80);
	assert_int_equal(out.timeout_ms, 1500);
	agent_exec_free(&out);
}

/* Every prefix of a valid request is refused, or is itself one that lacks the later items. */
static void exec_cut_short(void **state)
{
	char *argv[] = {"prog", "argument", NULL}, *env[] = {"A=1", NULL};
	struct agent_exec in = {.argv = argv, .env = env, .cwd = "/", .user = "root"}, out;
	cleanup_writer struct writer w = WRITER_INIT;
	unsigned refused = 0;

	agent_put_exec(&w, &in);
	for (size_t n = 0; n < w.len; n++) {
		struct agent_frame f = {.type = AGENT_EXEC, .len = (uint32_t)n};
		/* Of exactly n bytes, so that a sanitizer sees a read past the end. */
		f.data = malloc(n ? n : 1);
		memcpy(f.data, w.p, n);
		struct err e = ERR_INIT;
		int r = agent_get_exec(&f, &out, &e);
		if (r == 0) {
			assert_string_equal(out.argv[0], "prog");
			agent_exec_free(&out);
		} else {
			assert_int_equal(r, -EPROTO);
			assert_true(e.msg[0]);
			refused++;
		}
		free(f.data);
	}
	assert_true(refused > w.len / 2);
}

static void exec_refusals(void **state)
{
	struct agent_exec out;
	struct {
		uint16_t tag;
		const char *p;
		size_t n;
	} bad[] = {
		{1, "a\0b", 3}, /* an argument with a NUL */
		{5, "\2", 1},	/* a flag that is neither 0 nor 1 */
		{7, "x", 1},	/* a u16 of one byte */
		{9, "12345", 5},
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		cleanup_writer struct writer w = WRITER_INIT;
		put_tlv(&w, 1, "prog", 4);
		put_tlv(&w, bad[i].tag, bad[i].p, bad[i].n);
		struct agent_frame f = frame_of(AGENT_EXEC, &w);
		assert_int_equal(agent_get_exec(&f, &out, NULL), -EPROTO);
	}
	cleanup_writer struct writer none = WRITER_INIT;
	put_tlv(&none, 2, "A=1", 3);
	struct agent_frame f = frame_of(AGENT_EXEC, &none);
	assert_int_equal(agent_get_exec(&f, &out, NULL), -EPROTO);

	cleanup_writer struct writer many = WRITER_INIT;
	for (unsigned i = 0; i <= AGENT_ARGS_MAX; i++)
		put_tlv(&many, 1, "x", 1);
	f = frame_of(AGENT_EXEC, &many);
	assert_int_equal(agent_get_exec(&f, &out, NULL), -EPROTO);
}

static void unknown_items_are_skipped(void **state)
{
	cleanup_writer struct writer w = WRITER_INIT;
	struct agent_exec out;

	put_tlv(&w, 999, "later", 5);
	put_tlv(&w, 1, "prog", 4);
	put_tlv(&w, 1000, NULL, 0);
	struct agent_frame f = frame_of(AGENT_EXEC, &w);
	assert_int_equal(agent_get_exec(&f, &out, NULL), 0);
	assert_string_equal(out.argv[0], "prog");
	agent_exec_free(&out);
}

static void generation_round_trip(void **state)
{
	struct agent_generation in = {.number = 42,
				      .uuid = {1, 2, 3},
				      .entropy = {9, 8, 7},
				      .entropy_len = 48,
				      .wall_ns = 1234567890123456789u,
				      .hostname = "vm-7",
				      .machine_id = "0123456789abcdef0123456789abcdef"};
	struct agent_generation out;
	cleanup_writer struct writer w = WRITER_INIT;

	agent_put_generation(&w, &in);
	struct agent_frame f = frame_of(AGENT_GENERATION, &w);
	assert_int_equal(agent_get_generation(&f, &out, NULL), 0);
	assert_memory_equal(&out, &in, sizeof(in));
}

static void generation_refusals(void **state)
{
	struct agent_generation good = {.number = 1, .entropy_len = 32}, out;
	struct agent_generation bad[] = {good, good, good};

	bad[0].entropy_len = 31;
	strcpy(bad[1].machine_id, "0123456789ABCDEF0123456789abcdef");
	strcpy(bad[2].machine_id, "0123");
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		cleanup_writer struct writer w = WRITER_INIT;
		agent_put_generation(&w, &bad[i]);
		struct agent_frame f = frame_of(AGENT_GENERATION, &w);
		assert_int_equal(agent_get_generation(&f, &out, NULL), -EPROTO);
	}
	struct agent_frame empty = {.type = AGENT_GENERATION};
	assert_int_equal(agent_get_generation(&empty, &out, NULL), -EPROTO);
}

static void results_round_trip_and_overflow(void **state)
{
	static struct agent_results in, out;
	cleanup_writer struct writer w = WRITER_INIT;

	agent_result_add(&in, "freeze", 0, 12, "%s", "");
	agent_result_add(&in, "hook:net", 256 + 3, 77, "said %s", "no");
	agent_put_results(&w, &in);
	struct agent_frame f = frame_of(AGENT_RESULTS, &w);
	assert_int_equal(agent_get_results(&f, &out, NULL), 0);
	assert_int_equal(out.n, 2);
	assert_string_equal(out.r[1].item, "hook:net");
	assert_string_equal(out.r[1].detail, "said no");
	assert_int_equal(out.r[1].us, 77);
	assert_int_equal(out.r[1].code, 256 + 3);
	while (in.n < AGENT_RESULTS_MAX)
		agent_result_add(&in, "x", 0, 0, "%s", "");
	agent_result_add(&in, "one too many", 0, 0, "%s", "");
	assert_int_equal(in.n, AGENT_RESULTS_MAX);
	assert_string_equal(in.r[AGENT_RESULTS_MAX - 1].item, "more");
}

static void info_error_exit_round_trip(void **state)
{
	struct agent_info in = {.uptime_ms = 5,
				.entry_state = AGENT_ENTRY_EXITED,
				.entry_exit = {AGENT_EXIT_SIGNAL, 9},
				.frozen = true,
				.generation = 3,
				.mailbox = true,
				.mailbox_generation = 4,
				.kernel = "6.1.0",
				.rootfs = "erofs dax on /dev/pmem0"};
	struct agent_info out;
	struct agent_exit x;
	cleanup_writer struct writer w = WRITER_INIT, e = WRITER_INIT, q = WRITER_INIT;
	struct err err = ERR_INIT;

	agent_put_info(&w, &in);
	struct agent_frame f = frame_of(AGENT_INFO_IS, &w);
	assert_int_equal(agent_get_info(&f, &out, NULL), 0);
	assert_true(out.frozen && out.mailbox);
	assert_int_equal(out.mailbox_generation, 4);
	assert_int_equal(agent_exit_status(&out.entry_exit), 137);
	assert_string_equal(out.rootfs, in.rootfs);

	agent_put_error(&e, ENOENT, "no\033[2J such");
	f = frame_of(AGENT_ERROR, &e);
	assert_int_equal(agent_get_error(&f, &err), -ENOENT);
	/* A guest's words do not drive the host's terminal. */
	assert_string_equal(err.msg, "guest: no?[2J such");

	agent_put_exit(&q, &(struct agent_exit){.kind = AGENT_EXIT_CODE, .value = 7});
	f = frame_of(AGENT_EXIT, &q);
	assert_int_equal(agent_get_exit(&f, &x, NULL), 0);
	assert_int_equal(agent_exit_status(&x), 7);
	assert_int_equal(agent_exit_status(&(struct agent_exit){.kind = AGENT_EXIT_TIMEOUT}), 124);
}

static void header_refusals(void **state)
{
	uint8_t h[AGENT_FRAME_HDR];
	uint16_t type;
	uint32_t len;

	agent_header_put(h, AGENT_STDOUT, AGENT_DATA_MAX);
	assert_int_equal(agent_header_parse(h, &type, &len, NULL), 0);
	assert_int_equal(type, AGENT_STDOUT);
	assert_int_equal(len, AGENT_DATA_MAX);
	agent_header_put(h, AGENT_STDOUT, AGENT_DATA_MAX + 1);
	assert_int_equal(agent_header_parse(h, &type, &len, NULL), -EPROTO);
	agent_header_put(h, 0, 0);
	assert_int_equal(agent_header_parse(h, &type, &len, NULL), -EPROTO);
	agent_header_put(h, 200, 0);
	assert_int_equal(agent_header_parse(h, &type, &len, NULL), -EPROTO);
	agent_header_put(h, AGENT_INFO, 0);
	h[7] = 1;
	assert_int_equal(agent_header_parse(h, &type, &len, NULL), -EPROTO);
}

static void frames_on_a_socket(void **state)
{
	struct agent_frame f = {0};
	struct err e = ERR_INIT;
	int s[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
	assert_int_equal(agent_frame_write(s[0], AGENT_STDIN, "hello", 5, 100, &e), 0);
	assert_int_equal(agent_frame_read(s[1], &f, 100, &e), 0);
	assert_int_equal(f.type, AGENT_STDIN);
	assert_int_equal(f.len, 5);
	assert_memory_equal(f.data, "hello", 5);
	assert_int_equal(agent_frame_read(s[1], &f, 20, &e), -ETIMEDOUT);
	assert_int_equal(agent_frame_write(s[0], AGENT_STDIN, NULL, AGENT_DATA_MAX + 1, 100, &e),
			 -E2BIG);
	/* Half a header, then the end. */
	assert_int_equal(write(s[0], "abc", 3), 3);
	close(s[0]);
	assert_int_equal(agent_frame_read(s[1], &f, 100, &e), -ECONNRESET);
	close(s[1]);
	agent_frame_free(&f);
}

static void bootconf_round_trip(void **state)
{
	char *argv[] = {"/bin/app", "-x", NULL}, *env[] = {"PATH=/bin", NULL};
	struct bootconf in = {
		.root_device = "/dev/pmem0",
		.root_fstype = "erofs",
		.root_dax = true,
		.argv = argv,
		.env = env,
		.cwd = "/srv",
		.user = "1000:1000",
		.hostname = "box",
		.machine_id = "00000000000000000000000000000001",
		.poweroff_on_exit = true,
		.generation = 11,
		.uuid = {5, 5},
		.mailbox_gpa = 0xf000,
		.wall_ns = 99,
		.disk = {{"/dev/vda", "/data", "ext4", true}},
		.ndisks = 1,
	};
	struct bootconf out;
	cleanup_writer struct writer w = WRITER_INIT;
	struct err e = ERR_INIT;

	bootconf_encode(&w, &in);
	assert_int_equal(bootconf_decode(w.p, w.len, &out, &e), 0);
	assert_string_equal(out.root_device, "/dev/pmem0");
	assert_string_equal(out.argv[1], "-x");
	assert_string_equal(out.env[0], "PATH=/bin");
	assert_string_equal(out.machine_id, in.machine_id);
	assert_true(out.root_dax && out.poweroff_on_exit);
	assert_int_equal(out.mailbox_gpa, 0xf000);
	assert_int_equal(out.ndisks, 1);
	assert_string_equal(out.disk[0].path, "/data");
	assert_true(out.disk[0].readonly);
	assert_memory_equal(out.uuid, in.uuid, 16);
	bootconf_free(&out);
	/* No cut leaks, overruns or passes for another configuration's disk. */
	for (size_t n = 0; n < w.len; n++) {
		uint8_t *cut = malloc(n ? n : 1);
		memcpy(cut, w.p, n);
		if (bootconf_decode(cut, n, &out, &e) == 0)
			bootconf_free(&out);
		free(cut);
	}
	w.p[0] ^= 1;
	assert_int_equal(bootconf_decode(w.p, w.len, &out, &e), -EBADMSG);
	w.p[0] ^= 1;
	w.p[4]++;
	assert_int_equal(bootconf_decode(w.p, w.len, &out, &e), -ENOTSUP);
}

static void mailbox_round_trip(void **state)
{
	struct mailbox in = {.generation = 9, .uuid = {1}, .wall_ns = 77}, out;
	uint8_t page[MAILBOX_SIZE] = {0};

	assert_false(mailbox_get(page, &out));
	mailbox_put(page, &in);
	assert_true(mailbox_get(page, &out));
	assert_int_equal(out.generation, 9);
	assert_int_equal(out.wall_ns, 77);
	assert_memory_equal(out.uuid, in.uuid, 16);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(exec_round_trip),
		cmocka_unit_test(exec_cut_short),
		cmocka_unit_test(exec_refusals),
		cmocka_unit_test(unknown_items_are_skipped),
		cmocka_unit_test(generation_round_trip),
		cmocka_unit_test(generation_refusals),
		cmocka_unit_test(results_round_trip_and_overflow),
		cmocka_unit_test(info_error_exit_round_trip),
		cmocka_unit_test(header_refusals),
		cmocka_unit_test(frames_on_a_socket),
		cmocka_unit_test(bootconf_round_trip),
		cmocka_unit_test(mailbox_round_trip),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
