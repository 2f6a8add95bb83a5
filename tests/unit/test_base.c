/* The shared base: errors, numbers, bounded bytes, hex, files, workers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "smfs/base/bytes.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/err.h"
#include "smfs/base/hex.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"
#include "smfs/base/sha256.h"
#include "smfs/base/unix_socket.h"
#include "smfs/base/workers.h"

static void error_is_one_line_with_context(void **state)
{
	struct err err = ERR_INIT;

	assert_int_equal(err_set(&err, EBUSY, "mount %s: busy\nnow", "/x"), -EBUSY);
	assert_string_equal(err.msg, "mount /x: busy?now");
	assert_int_equal(err_wrap(&err, -EBUSY, "start %d", 7), -EBUSY);
	assert_string_equal(err.msg, "start 7: mount /x: busy?now");
	assert_int_equal(err.code, EBUSY);
	errno = ENOENT;
	assert_int_equal(err_errno(&err, "open %s", "/y"), -ENOENT);
	assert_string_equal(err.msg, "open /y: No such file or directory");
	assert_int_equal(err_set(NULL, EIO, "x"), -EIO);
}

static void long_error_is_cut(void **state)
{
	char big[3 * ERR_MSG_MAX];
	struct err err = ERR_INIT;

	memset(big, 'a', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	err_set(&err, EIO, "%s", big);
	assert_int_equal(strlen(err.msg), ERR_MSG_MAX - 1);
	err_wrap(&err, -EIO, "%s", big);
	assert_int_equal(strlen(err.msg), ERR_MSG_MAX - 1);
}

static void sizes_parse_and_refuse(void **state)
{
	uint64_t v;
	struct err err;

	assert_int_equal(parse_size("512M", 0, TIB, &v, &err), 0);
	assert_int_equal(v, 512 * MIB);
	assert_int_equal(parse_size("4GiB", 0, TIB, &v, &err), 0);
	assert_int_equal(v, 4 * GIB);
	assert_int_equal(parse_size("65536", 0, TIB, &v, &err), 0);
	static const char *const bad[] = {
		"", "-1", "M", "1X", "1MM", "99999999999999999999", "17179869184T"};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(parse_size(bad[i], 0, UINT64_MAX, &v, &err), -EINVAL);
	assert_int_equal(parse_size("5", 6, 7, &v, &err), -EINVAL);
	assert_int_equal(parse_u64("12", 0, 20, &v, &err), 0);
	assert_int_equal(parse_u64("12a", 0, 20, &v, &err), -EINVAL);
	assert_int_equal(parse_u64("21", 0, 20, &v, &err), -EINVAL);
}

static void ranges_never_overflow(void **state)
{
	assert_true(range_ok(0, 10, 10));
	assert_true(range_ok(10, 0, 10));
	assert_false(range_ok(10, 1, 10));
	assert_false(range_ok(UINT64_MAX, 2, 10));
	assert_false(range_ok(5, UINT64_MAX, 10));
}

static void reader_stays_in_bounds(void **state)
{
	cleanup_writer struct writer w = WRITER_INIT;

	put_u8(&w, 1);
	put_u16(&w, 0x1234);
	put_u32(&w, 0xdeadbeef);
	put_u64(&w, 1ull << 63);
	put_blob16(&w, "abc", 3);
	assert_false(w.failed);
	struct reader r = reader_of(w.p, w.len);
	size_t n;
	assert_int_equal(get_u8(&r), 1);
	assert_int_equal(get_u16(&r), 0x1234);
	assert_int_equal(get_u32(&r), 0xdeadbeef);
	assert_int_equal(get_u64(&r), 1ull << 63);
	assert_memory_equal(get_blob16(&r, 3, &n), "abc", 3);
	assert_true(reader_done(&r));
	assert_int_equal(get_u32(&r), 0);
	assert_false(reader_ok(&r));
	/* every truncation fails, none crashes */
	for (size_t len = 0; len < w.len; len++) {
		r = reader_of(w.p, len);
		get_u8(&r), get_u16(&r), get_u32(&r), get_u64(&r), get_blob16(&r, 3, &n);
		assert_false(reader_ok(&r));
	}
	r = reader_of(w.p + 15, w.len - 15);
	assert_null(get_blob16(&r, 2, &n));
}

static void hex_round_trip(void **state)
{
	uint8_t in[3] = {0, 0xab, 0xff}, out[3];
	char s[7];

	assert_string_equal(hex_encode(in, 3, s), "00abff");
	assert_true(hex_decode(s, 6, out, 3));
	assert_memory_equal(in, out, 3);
	assert_false(hex_decode("00AB", 4, out, 2));
	assert_false(hex_decode("00a", 3, out, 1));
}

static void sha256_known_answer(void **state)
{
	uint8_t out[SHA256_LEN];
	char s[65];

	sha256("abc", 3, out);
	assert_string_equal(hex_encode(out, 32, s),
			    "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

/* Any number of messages, of any lengths, beginning anywhere. */
static void sha256_of_many_at_once(void **state)
{
	static uint8_t buf[200000], out[40][SHA256_LEN];
	struct sha256_msg m[40];
	uint8_t want[SHA256_LEN];
	uint32_t x = 1;

	(void)state;
	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)((x = x * 1664525 + 1013904223) >> 24);
	for (size_t round = 0; round < 60; round++) {
		size_t n = round % 41;

		for (size_t i = 0; i < n; i++) {
			x = x * 1664525 + 1013904223;
			m[i].p = buf + (x >> 8) % 100000;
			/* Mostly of one length, then around it, then any. */
			m[i].len = round < 20 || i % 3 ? 65536
				   : round < 40	       ? 65536 - (x >> 16) % 200
						       : (x >> 12) % 100000;
			m[i].out = out[i];
		}
		sha256_many(m, n);
		for (size_t i = 0; i < n; i++) {
			sha256(m[i].p, m[i].len, want);
			assert_memory_equal(out[i], want, SHA256_LEN);
		}
	}
}

static void files_replace_whole(void **state)
{
	char dir[] = "/tmp/smfs-base.XXXXXX", path[64];
	cleanup_free char *got = NULL;
	struct err err = ERR_INIT;
	size_t len;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/f", dir);
	assert_int_equal(write_file_atomic(AT_FDCWD, path, "one", 3, 0600, &err), 0);
	assert_int_equal(write_file_atomic(AT_FDCWD, path, "second", 6, 0600, &err), 0);
	assert_int_equal(read_file(AT_FDCWD, path, 6, &got, &len, &err), 0);
	assert_string_equal(got, "second");
	assert_int_equal(len, 6);
	char *none = NULL;
	assert_int_equal(read_file(AT_FDCWD, path, 5, &none, NULL, &err), -EFBIG);
	unlink(path);
	assert_int_equal(read_file(AT_FDCWD, path, 5, &none, NULL, &err), -ENOENT);
	rmdir(dir);
}

static void count(void *arg)
{
	atomic_fetch_add((atomic_int *)arg, 1);
}

static void on_alarm(int sig)
{
}

/* Whoever listens and takes nobody is waited for as long as was said. */
static void a_full_queue_is_not_waited_for_without_end(void **state)
{
	const struct itimerval often = {.it_interval.tv_usec = 20000, .it_value.tv_usec = 20000};
	const struct sigaction act = {.sa_handler = on_alarm};
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	char dir[] = "/tmp/base-test.XXXXXX", path[64], longer[200];
	struct err err = ERR_INIT;
	int queued[8], n = 0, fd;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/s", dir);
	assert_int_equal(unix_connect(path, 100, &err), -ENOENT);
	strcpy(a.sun_path, path);
	cleanup_fd int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(listener, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(unix_connect(path, 100, &err), -ECONNREFUSED);
	assert_int_equal(listen(listener, 1), 0);
	while ((fd = unix_connect(path, 0, &err)) >= 0) {
		assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
		assert_true(n < 8);
		queued[n++] = fd;
	}
	assert_int_equal(fd, -EAGAIN);
	const int64_t began = monotonic_ms();
	assert_int_equal(unix_connect(path, 100, &err), -EAGAIN);
	assert_in_range(monotonic_ms() - began, 99, 30000);
	assert_int_equal(sigaction(SIGALRM, &act, NULL), 0);
	/* Nor is it by one that is disturbed all along, nor given up for that. */
	assert_int_equal(setitimer(ITIMER_REAL, &often, NULL), 0);
	const int64_t again = monotonic_ms();
	assert_int_equal(unix_connect(path, 300, &err), -EAGAIN);
	assert_in_range(monotonic_ms() - again, 299, 30000);
	setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
	close(accept(listener, NULL, NULL));
	fd = unix_connect(path, 100, &err);
	assert_true(fd >= 0);
	assert_false(fcntl(fd, F_GETFL) & O_NONBLOCK);
	close(fd);
	while (n)
		close(queued[--n]);
	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	assert_int_equal(unix_connect(longer, 100, &err), -ENAMETOOLONG);
	unlink(path);
	rmdir(dir);
}

static void workers_run_every_job(void **state)
{
	struct workers *w;
	struct err err = ERR_INIT;
	atomic_int n = 0;

	assert_int_equal(workers_new(&w, 3, 2, &err), 0);
	assert_int_equal(workers_count(w), 3);
	for (int i = 0; i < 1000; i++)
		workers_submit(w, count, &n);
	workers_wait(w);
	assert_int_equal(atomic_load(&n), 1000);
	workers_submit(w, count, &n);
	workers_free(w);
	assert_int_equal(atomic_load(&n), 1001);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(error_is_one_line_with_context),
		cmocka_unit_test(long_error_is_cut),
		cmocka_unit_test(sizes_parse_and_refuse),
		cmocka_unit_test(ranges_never_overflow),
		cmocka_unit_test(reader_stays_in_bounds),
		cmocka_unit_test(hex_round_trip),
		cmocka_unit_test(sha256_known_answer),
		cmocka_unit_test(sha256_of_many_at_once),
		cmocka_unit_test(files_replace_whole),
		cmocka_unit_test(a_full_queue_is_not_waited_for_without_end),
		cmocka_unit_test(workers_run_every_job),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
