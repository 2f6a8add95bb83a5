/* What a VM's process can no longer do once it has given up its privileges, and what it still can.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "runner/control/privs.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#include <sanitizer/lsan_interface.h>
#endif

/* In a child that has dropped its privileges: what `body` returns. */
static int confined(int (*body)(void))
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		struct err err = ERR_INIT;

		if (privs_drop(&err) < 0) {
			dprintf(STDERR_FILENO, "%s\n", err.msg);
			_exit(100);
		}
		_exit(body());
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

/* 0 when the call failed with EPERM, else `step`. */
#define REFUSED(call, step)                               \
	do {                                              \
		errno = 0;                                \
		if ((long)(call) != -1 || errno != EPERM) \
			return step;                      \
	} while (0)

static int starts_nothing(void)
{
	char *const argv[] = {"true", NULL};

	REFUSED(execv("/bin/true", argv), 1);
	REFUSED(syscall(SYS_execveat, AT_FDCWD, "/bin/true", argv, NULL, 0), 2);
	return 0;
}

static int looks_into_nobody(void)
{
	REFUSED(ptrace(PTRACE_ATTACH, getppid(), NULL, NULL), 1);
	REFUSED(syscall(SYS_process_vm_readv, getppid(), NULL, 0, NULL, 0, 0), 2);
	REFUSED(syscall(SYS_pidfd_getfd, 0, 0, 0), 3);
	return 0;
}

static int changes_no_system(void)
{
	REFUSED(mount("none", "/mnt", "tmpfs", 0, NULL), 1);
	REFUSED(unshare(CLONE_NEWUSER), 2);
	REFUSED(syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL), 3);
	REFUSED(syscall(SYS_bpf, 0, NULL, 0), 4);
	REFUSED(syscall(SYS_io_uring_setup, 1, NULL), 5);
	REFUSED(syscall(SYS_init_module, NULL, 0, ""), 6);
	REFUSED(syscall(SYS_chroot, "/"), 7);
	REFUSED(syscall(SYS_keyctl, 0, 0), 8);
	REFUSED(syscall(SYS_userfaultfd, 0), 9);
	/* The numbers of x32, and those no kernel has. */
	REFUSED(syscall(0x40000000 | SYS_getpid), 10);
	REFUSED(syscall(5000), 11);
	return 0;
}

static int has_no_network(void)
{
	REFUSED(socket(AF_INET, SOCK_STREAM, 0), 1);
	REFUSED(socket(AF_INET6, SOCK_DGRAM, 0), 2);
	REFUSED(socket(AF_NETLINK, SOCK_RAW, 0), 3);
	REFUSED(socket(AF_PACKET, SOCK_RAW, 0), 4);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	return fd < 0 ? 5 : 0;
}

static int controls_no_devices(void)
{
	int null = open("/dev/null", O_RDWR);
	long flags = 0;

	REFUSED(ioctl(null, FS_IOC_SETFLAGS, &flags), 1);
	REFUSED(ioctl(null, TIOCSTI, "x"), 2);
	/* KVM's are let through to the driver, which this is not. */
	errno = 0;
	return ioctl(null, 0xae00, 0) == -1 && errno == ENOTTY ? 0 : 3;
}

#ifdef __SANITIZE_ADDRESS__
static int finds_its_leaks(void)
{
	void *volatile lost = malloc(100);

	__sanitizer_set_report_fd((void *)(intptr_t)open("/dev/null", O_WRONLY));
	if (!lost || __lsan_do_recoverable_leak_check())
		return 1;
	lost = NULL;
	return __lsan_do_recoverable_leak_check() ? 0 : 2;
}
#endif

static void *add_one(void *arg)
{
	++*(int *)arg;
	return NULL;
}

static int still_works(void)
{
	struct err err = ERR_INIT;
	int n = 0, status;
	pthread_t thread;
	char buf[16];

	if (pthread_create(&thread, NULL, add_one, &n) != 0 || pthread_join(thread, NULL) != 0)
		return 1;
	if (n != 1)
		return 2;
	pid_t pid = fork();
	if (pid == 0) /* gives up again what it has not, as a fork's child does */
		_exit(privs_drop(&err) < 0 ? 1 : 0);
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
		return 3;
	void *p = realloc(malloc(1 << 20), 64 << 20);
	if (!p)
		return 4;
	free(p);
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	return fd >= 0 && pread(fd, buf, 8, 0) == 8 ? 0 : 5;
}

static void no_program_can_be_started(void **state)
{
	(void)state;
	assert_int_equal(confined(starts_nothing), 0);
}

static void no_other_process_can_be_looked_into(void **state)
{
	(void)state;
	assert_int_equal(confined(looks_into_nobody), 0);
}

static void nothing_of_the_system_can_be_changed(void **state)
{
	(void)state;
	assert_int_equal(confined(changes_no_system), 0);
}

static void only_unix_sockets_can_be_made(void **state)
{
	(void)state;
	assert_int_equal(confined(has_no_network), 0);
}

static void only_kvm_and_a_terminal_take_ioctls(void **state)
{
	(void)state;
	assert_int_equal(confined(controls_no_devices), 0);
}

#ifdef __SANITIZE_ADDRESS__
static void a_sanitizer_finds_what_is_lost(void **state)
{
	(void)state;
	assert_int_equal(confined(finds_its_leaks), 0);
}
#endif

static void threads_children_memory_and_files_go_on(void **state)
{
	(void)state;
	assert_int_equal(confined(still_works), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_program_can_be_started),
		cmocka_unit_test(no_other_process_can_be_looked_into),
		cmocka_unit_test(nothing_of_the_system_can_be_changed),
		cmocka_unit_test(only_unix_sockets_can_be_made),
		cmocka_unit_test(only_kvm_and_a_terminal_take_ioctls),
#ifdef __SANITIZE_ADDRESS__
		cmocka_unit_test(a_sanitizer_finds_what_is_lost),
#endif
		cmocka_unit_test(threads_children_memory_and_files_go_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
