/*
 * The filter is a binary search over the numbers, seven comparisons for any call, made anew each
 * time: a linear one costs three times as much to load, since the kernel runs it once for every
 * call there is, and libseccomp's costs as much again to compile. A restore pays for it.
 */
#include "runner/control/syscalls.h"
#include "runner/control/sanitizer.h"
#include "runner/vm/pagemap.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ALLOW	    SECCOMP_RET_ALLOW
#define REFUSE	    (SECCOMP_RET_ERRNO | EPERM)
#define UNKNOWN	    (SECCOMP_RET_ERRNO | ENOSYS)
#define PROGRAM_MAX 512

/* ---- what a VM does -------------------------------------------------------------------------- */

static const uint16_t allowed[] = {
	/* memory */
	SYS_brk, SYS_mmap, SYS_munmap, SYS_mremap, SYS_mprotect, SYS_madvise, SYS_mincore,
	SYS_memfd_create, /* threads, children, time, signals to itself and to the child that writes
			     a snapshot */
	SYS_futex, SYS_set_robust_list, SYS_rseq, SYS_sched_yield, SYS_sched_getaffinity,
	SYS_setpriority, SYS_fork, SYS_wait4, SYS_waitid, SYS_exit, SYS_exit_group, SYS_setsid,
	SYS_getpid, SYS_getppid, SYS_gettid, SYS_pidfd_open, SYS_kill, SYS_tkill, SYS_tgkill,
	SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_sigaltstack,
	SYS_restart_syscall, SYS_nanosleep, SYS_clock_nanosleep, SYS_clock_gettime,
	SYS_clock_getres, SYS_gettimeofday, SYS_prctl,
	/* facts */
	SYS_getrandom, SYS_uname, SYS_sysinfo, SYS_getrlimit, SYS_setrlimit, SYS_prlimit64,
	SYS_getrusage, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_umask,
	/* descriptors and files */
	SYS_read, SYS_pread64, SYS_readv, SYS_preadv, SYS_write, SYS_pwrite64, SYS_writev,
	SYS_pwritev, SYS_lseek, SYS_open, SYS_openat, SYS_close, SYS_close_range, SYS_dup, SYS_dup2,
	SYS_dup3, SYS_fcntl, SYS_flock, SYS_stat, SYS_lstat, SYS_fstat, SYS_newfstatat, SYS_statx,
	SYS_statfs, SYS_fstatfs, SYS_access, SYS_faccessat, SYS_faccessat2, SYS_readlink,
	SYS_readlinkat, SYS_getdents64, SYS_getxattr, SYS_fgetxattr, SYS_listxattr, SYS_flistxattr,
	SYS_fadvise64, SYS_mkdir, SYS_mkdirat, SYS_rmdir, SYS_unlink, SYS_unlinkat, SYS_rename,
	SYS_renameat, SYS_renameat2, SYS_link, SYS_linkat, SYS_chmod, SYS_fchmod, SYS_fchmodat,
	SYS_utimensat, SYS_ftruncate, SYS_fallocate, SYS_fsync, SYS_fdatasync, SYS_msync,
	SYS_sync_file_range, SYS_copy_file_range,
	/* waiting */
	SYS_poll, SYS_ppoll, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_wait, SYS_epoll_pwait,
	SYS_eventfd2, SYS_pipe, SYS_pipe2, SYS_timerfd_create, SYS_timerfd_settime,
	SYS_timerfd_gettime, SYS_signalfd4, SYS_inotify_init1, SYS_inotify_add_watch,
	SYS_inotify_rm_watch,
	/* Unix sockets */
	SYS_bind, SYS_listen, SYS_connect, SYS_accept, SYS_accept4, SYS_getsockname,
	SYS_getpeername, SYS_getsockopt, SYS_setsockopt, SYS_shutdown, SYS_sendto, SYS_recvfrom,
	SYS_sendmsg, SYS_recvmsg, SANITIZER_CALLS};

/* Let through by an argument: see by_argument(). */
static const uint16_t examined[] = {SYS_ioctl, SYS_socket, SYS_socketpair, SYS_clone, SYS_clone3};

/* What clone(2) may not do: only threads, and children as fork(2) makes them. */
#define NEW_SPACES                                                                     \
	(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | \
	 CLONE_NEWPID | CLONE_NEWNET)

/* ---- the program ----------------------------------------------------------------------------- */

struct program {
	struct sock_filter f[PROGRAM_MAX];
	unsigned n;
	bool full;
};

/* Calls from `first` on, up to the next entry's, have this verdict; 0: look at the arguments. */
struct span {
	uint32_t first, verdict;
};

static void emit(struct program *p, uint16_t code, uint32_t k, uint8_t jt, uint8_t jf)
{
	if (p->n == PROGRAM_MAX)
		p->full = true;
	else
		p->f[p->n++] = (struct sock_filter){code, jt, jf, k};
}

static void load(struct program *p, size_t offset)
{
	emit(p, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

static void give(struct program *p, uint32_t verdict)
{
	emit(p, BPF_RET | BPF_K, verdict, 0, 0);
}

/* The low half of an argument, little-endian. */
static size_t argument(unsigned i)
{
	return offsetof(struct seccomp_data, args) + i * sizeof(uint64_t);
}

/* ALLOW when the accumulator is `k`. */
static void allow_equal(struct program *p, uint32_t k)
{
	emit(p, BPF_JMP | BPF_JEQ | BPF_K, k, 0, 1);
	give(p, ALLOW);
}

static void by_argument(struct program *p, uint32_t nr)
{
	switch (nr) {
	case SYS_ioctl:
		load(p, argument(1));
		allow_equal(p, TCGETS);
		allow_equal(p, TCSETS);
		allow_equal(p, TCSETSW);
		allow_equal(p, TCSETSF);
		allow_equal(p, PAGEMAP_SCAN);
		emit(p, BPF_ALU | BPF_AND | BPF_K, 0xff00, 0, 0);
		allow_equal(p, KVMIO << 8);
		break;
	case SYS_socket:
	case SYS_socketpair:
		load(p, argument(0));
		allow_equal(p, AF_UNIX);
		break;
	case SYS_clone:
		load(p, argument(0));
		emit(p, BPF_ALU | BPF_AND | BPF_K, NEW_SPACES, 0, 0);
		allow_equal(p, 0);
		break;
	case SYS_clone3:
		/* Its flags are in memory, out of a filter's sight: the C library uses clone then.
		 */
		give(p, UNKNOWN);
		return;
	}
	give(p, REFUSE);
}

/* Over span[0..n): those before the middle behind the jump, the rest where it leads. */
static void search(struct program *p, const struct span *span, unsigned n)
{
	if (n == 1) {
		if (span->verdict)
			give(p, span->verdict);
		else
			by_argument(p, span->first);
		return;
	}
	const unsigned half = n / 2, at = p->n;

	emit(p, BPF_JMP | BPF_JGE | BPF_K, span[half].first, 0, 0);
	search(p, span, half);
	const unsigned skip = p->n - at - 1;
	if (p->full || skip > UINT8_MAX)
		p->full = true;
	else
		p->f[at].jt = (uint8_t)skip;
	search(p, span + half, n - half);
}

/* `verdict[nr]` for every number a list names, as spans. */
static unsigned spans(struct span *s)
{
	enum { NUMBERS = 512 };
	uint32_t verdict[NUMBERS];
	unsigned n = 0;

	for (unsigned nr = 0; nr < NUMBERS; nr++)
		verdict[nr] = REFUSE;
	for (unsigned i = 0; i < sizeof(allowed) / sizeof(allowed[0]); i++)
		verdict[allowed[i]] = ALLOW;
	for (unsigned i = 0; i < sizeof(examined) / sizeof(examined[0]); i++)
		verdict[examined[i]] = 0;
	for (unsigned nr = 0; nr < NUMBERS; nr++)
		if (nr == 0 || !verdict[nr] || verdict[nr] != verdict[nr - 1])
			s[n++] = (struct span){nr, verdict[nr]};
	return n;
}

int syscalls_confine(struct err *err)
{
	struct program p = {.n = 0};
	struct span span[512];

	load(&p, offsetof(struct seccomp_data, arch));
	emit(&p, BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
	give(&p, SECCOMP_RET_KILL_PROCESS);
	/* x32's numbers have bit 30 set: they are in the last span, which is refused. */
	load(&p, offsetof(struct seccomp_data, nr));
	search(&p, span, spans(span));
	if (p.full)
		return err_set(err, E2BIG, "confine system calls: the filter is too long");

	struct sock_fprog prog = {(unsigned short)p.n, p.f};
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog) < 0)
		return err_errno(err, "confine system calls");
	return 0;
}
