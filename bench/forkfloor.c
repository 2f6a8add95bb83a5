/*
 * forkfloor RAM DIRTY_MIB CHILDREN ROUNDS - the least a live snapshot and a fork can cost.
 *
 * Maps a snapshot's `ram` MAP_PRIVATE and writes a word to every page of DIRTY_MIB of it from 16
 * MiB on. Then, ROUNDS times: how long fork(2) of that takes the parent ("fork"), which is what any
 * snapshot by copy-on-write must pause for; and how long from the call until each of CHILDREN
 * forked processes has made a bare VM (bare.h) over the memory and its guest has written its first
 * byte ("children"); and what a write costs to a page that a forked process shares, which is what a
 * guest pays while a live snapshot is being written ("copy", of a page, in nanoseconds). And then
 * fork(2) again, of the same memory once a guest has it mapped ("fork-vm"): KVM has to take all of
 * that away from the guest, within fork(2). Prints the medians, in microseconds but for the copy:
 * "fork 123", "children 456", "copy 789" and "fork-vm 234".
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench/bare.h"

#define PAGE	  4096u
#define BEGIN	  ((size_t)16 << 20)
#define WRITER	  ((size_t)12 << 20) /* the guest is below that */
#define NO_MEMORY 0xd0000000u

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int by_value(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *v, int n)
{
	qsort(v, (size_t)n, sizeof(*v), by_value);
	return v[n / 2];
}

static double fork_once(void)
{
	double t0 = now_us(), us;
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	us = now_us() - t0;
	CHECK(pid);
	waitpid(pid, NULL, 0);
	return us;
}

/* Nanoseconds a page. */
static double copy_once(uint8_t *ram, size_t dirty)
{
	pid_t pid = fork();
	double t0;

	if (pid == 0) {
		pause();
		_exit(0);
	}
	CHECK(pid);
	t0 = now_us();
	for (size_t at = BEGIN; at < BEGIN + dirty; at += PAGE)
		*(volatile uint64_t *)(ram + at) += 1;
	const double us = now_us() - t0;
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return us * 1000 / (double)(dirty / PAGE);
}

/* The children run until they are killed: like those they are compared with, they live on. */
static double children_once(uint8_t *ram, uint64_t len, int n)
{
	pid_t *pid = calloc((size_t)n, sizeof(*pid));
	int fd[2];
	char c;

	CHECK(pipe(fd));
	double t0 = now_us();
	for (int i = 0; i < n; i++) {
		CHECK(pid[i] = fork());
		if (pid[i] == 0) {
			struct bare_vm b;
			size_t k;

			bare_vm_new(&b, ram, len, false);
			const uint8_t *p = bare_vm_next(&b, &k);
			CHECK(write(fd[1], p, 1));
			/* Then it stands still, as those it is compared with do. */
			while (*p != '\n')
				p = bare_vm_next(&b, &k);
			for (;;)
				pause();
		}
	}
	for (int i = 0; i < n; i++)
		if (read(fd[0], &c, 1) != 1)
			exit(1);
	double us = now_us() - t0;
	for (int i = 0; i < n; i++)
		kill(pid[i], SIGKILL);
	while (wait(NULL) > 0)
		;
	close(fd[0]);
	close(fd[1]);
	free(pid);
	return us;
}

/*
 * A guest that writes to each of the pages and says so by a store to where no memory is. In ring 3,
 * for a KVM that emulates ring 0 would write without mapping anything.
 */
static void writer_new(struct bare_vm *b, uint8_t *ram, uint64_t len)
{
	static const uint8_t code[] = {
		0x48, 0x01, 0x06,			  /* 1: add %rax, (%rsi) */
		0x48, 0x81, 0xc6, 0x00, 0x10, 0x00, 0x00, /* add $4096, %rsi */
		0x48, 0x39, 0xfe,			  /* cmp %rdi, %rsi */
		0x72, 0xf1,				  /* jb 1b */
		0x88, 0x02,				  /* mov %al, (%rdx) */
	};
	struct kvm_sregs sregs;

	memcpy(ram + WRITER, code, sizeof(code));
	bare_vm_new(b, ram, len, false);
	CHECK(ioctl(b->vcpu, KVM_GET_SREGS, &sregs));
	sregs.cs.selector |= 3;
	sregs.ss.selector |= 3;
	sregs.cs.dpl = sregs.ss.dpl = 3;
	CHECK(ioctl(b->vcpu, KVM_SET_SREGS, &sregs));
}

static void writer_run(struct bare_vm *b, size_t dirty)
{
	const struct kvm_regs regs = {
		.rip = WRITER, .rflags = 2, .rsi = BEGIN, .rdi = BEGIN + dirty, .rdx = NO_MEMORY};

	CHECK(ioctl(b->vcpu, KVM_SET_REGS, &regs));
	CHECK(ioctl(b->vcpu, KVM_RUN, 0));
	if (b->run->exit_reason != KVM_EXIT_MMIO || b->run->mmio.phys_addr != NO_MEMORY) {
		fprintf(stderr, "forkfloor: the guest left for %u\n", b->run->exit_reason);
		exit(1);
	}
	/* The store is done only once KVM has been entered again. */
	b->run->immediate_exit = 1;
	if (ioctl(b->vcpu, KVM_RUN, 0) == 0 || errno != EINTR)
		exit(1);
	b->run->immediate_exit = 0;
}

int main(int argc, char **argv)
{
	int fd, children, rounds;
	struct stat st;
	size_t dirty;
	uint8_t *ram;

	if (argc != 5 || (children = atoi(argv[3])) < 1 || (rounds = atoi(argv[4])) < 1) {
		fprintf(stderr, "usage: forkfloor RAM DIRTY_MIB CHILDREN ROUNDS\n");
		return 2;
	}
	dirty = (size_t)atoi(argv[2]) << 20;
	CHECK(fd = open(argv[1], O_RDONLY | O_CLOEXEC));
	CHECK(fstat(fd, &st));
	if (BEGIN + dirty > (size_t)st.st_size) {
		fprintf(stderr, "forkfloor: %s is too small\n", argv[1]);
		return 2;
	}
	ram = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE,
		   fd, 0);
	if (ram == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	for (size_t at = BEGIN; at < BEGIN + dirty; at += PAGE)
		*(volatile uint64_t *)(ram + at) = at;

	double *forks = calloc((size_t)rounds, sizeof(double));
	double *all = calloc((size_t)rounds, sizeof(double));
	double *copies = calloc((size_t)rounds, sizeof(double));
	double *mapped = calloc((size_t)rounds, sizeof(double));
	if (!forks || !all || !copies || !mapped)
		return 1;
	for (int i = 0; i < rounds; i++) {
		forks[i] = fork_once();
		copies[i] = copy_once(ram, dirty);
		all[i] = children_once(ram, (uint64_t)st.st_size, children);
	}
	struct bare_vm writer;
	writer_new(&writer, ram, (uint64_t)st.st_size);
	for (int i = 0; i < rounds; i++) {
		writer_run(&writer, dirty);
		mapped[i] = fork_once();
	}
	printf("fork %.0f\nchildren %.0f\ncopy %.0f\nfork-vm %.0f\n", median(forks, rounds),
	       median(all, rounds), median(copies, rounds), median(mapped, rounds));
	return 0;
}
