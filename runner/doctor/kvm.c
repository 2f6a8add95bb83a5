/* kvm.c - is there a KVM, does it do what the runner asks of it, and how fast? */
#include "runner/doctor/doctor.h"
#include "runner/doctor/kvm_probe.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#define PROBE_MS 4000

/*
 * A stock kernel is up after one to two thousand million instructions, nearly all of ring 0. The
 * slow end is a boot of about a minute, the fast one what a processor's own virtualization is never
 * below.
 */
#define INSN_FAIL 30e6
#define INSN_WARN 300e6
#define BOOT_INSN 1.5e9
/* 20 us an exit: nested virtualization on a good host is at 5 to 10, none at 1 to 2. */
#define EXITS_WARN 50000

static const struct {
	int cap;
	const char *name;
	const char *without; /* NULL: no machine runs */
} caps[] = {
	{KVM_CAP_USER_MEMORY, "USER_MEMORY", NULL},
	{KVM_CAP_SET_TSS_ADDR, "SET_TSS_ADDR", NULL},
	{KVM_CAP_EXT_CPUID, "EXT_CPUID", NULL},
	{KVM_CAP_IRQCHIP, "IRQCHIP", NULL},
	{KVM_CAP_PIT2, "PIT2", NULL},
	{KVM_CAP_IRQFD, "IRQFD", NULL},
	{KVM_CAP_IOEVENTFD, "IOEVENTFD", NULL},
	{KVM_CAP_IMMEDIATE_EXIT, "IMMEDIATE_EXIT", NULL},
	{KVM_CAP_SYNC_MMU, "SYNC_MMU", NULL},
	{KVM_CAP_MP_STATE, "MP_STATE", NULL},
	{KVM_CAP_VCPU_EVENTS, "VCPU_EVENTS", NULL},
	{KVM_CAP_DEBUGREGS, "DEBUGREGS", NULL},
	{KVM_CAP_XSAVE, "XSAVE", NULL},
	{KVM_CAP_XCRS, "XCRS", NULL},
	{KVM_CAP_PIT_STATE2, "PIT_STATE2", NULL},
	{KVM_CAP_ADJUST_CLOCK, "ADJUST_CLOCK", NULL},
	{KVM_CAP_GET_TSC_KHZ, "GET_TSC_KHZ", "snapshots cannot tell the TSC's rate"},
	{KVM_CAP_READONLY_MEM, "READONLY_MEM", "an image cannot be a machine's read-only memory"},
	{KVM_CAP_TSC_DEADLINE_TIMER, "TSC_DEADLINE_TIMER", "guests' timers are slower"},
	{KVM_CAP_KVMCLOCK_CTRL, "KVMCLOCK_CTRL", "guests may report lockups after a pause"},
};

static void say_open(struct doctor *d, int e)
{
	const char *advice = "see why with `strace -e openat smvm-runner doctor`";

	if (e == ENOENT)
		advice =
			"load kvm_intel or kvm_amd; in a virtual machine have its host allow nested "
			"virtualization; in a container pass --device /dev/kvm";
	else if (e == EACCES || e == EPERM)
		advice = "join the group kvm, or run as root";
	else if (e == ENODEV || e == ENXIO)
		advice = "switch on virtualization (VT-x, SVM) in the firmware";
	doctor_say(d, DOCTOR_FAIL, "device", advice, "cannot open /dev/kvm: %s", strerror(e));
}

static bool check_api(struct doctor *d, int kvm)
{
	int v = ioctl(kvm, KVM_GET_API_VERSION, 0);

	if (v == KVM_API_VERSION)
		doctor_say(d, DOCTOR_PASS, "api", NULL, "version %d", v);
	else if (v < 0)
		doctor_say(d, DOCTOR_FAIL, "api",
			   "find out what has put another file at /dev/kvm; udev makes it right",
			   "/dev/kvm is not KVM: %s", strerror(errno));
	else
		doctor_say(d, DOCTOR_FAIL, "api", "run a kernel of 2.6.22 or later",
			   "version %d, %d is needed", v, KVM_API_VERSION);
	return v == KVM_API_VERSION;
}

static void check_caps(struct doctor *d, int kvm)
{
	char lost[256] = "", cost[256] = "", advice[320];
	bool fatal = false;

	for (size_t i = 0; i < ARRAY_SIZE(caps); i++) {
		if (ioctl(kvm, KVM_CHECK_EXTENSION, caps[i].cap) > 0)
			continue;
		size_t l = strlen(lost), c = strlen(cost);

		snprintf(lost + l, sizeof(lost) - l, "%s%s", l ? ", " : "", caps[i].name);
		if (caps[i].without)
			snprintf(cost + c, sizeof(cost) - c, "%s%s", c ? "; " : "",
				 caps[i].without);
		else
			fatal = true;
	}
	snprintf(advice, sizeof(advice), "%s; the x86-64 KVM of Linux 5.10 and later has them",
		 fatal ? "no machine runs without" : cost);
	if (!lost[0])
		doctor_say(d, DOCTOR_PASS, "capabilities", NULL, "all %zu that are used are there",
			   ARRAY_SIZE(caps));
	else
		doctor_say(d, fatal ? DOCTOR_FAIL : DOCTOR_WARN, "capabilities", advice,
			   "without KVM_CAP_%s", lost);
}

struct trial {
	struct kvm_probe probe;
	struct err err;
	int r;
};

static void trial(void *buf)
{
	struct trial *t = buf;

	t->r = kvm_probe(&t->probe, &t->err);
}

static const char *rate(double per_s, char buf[32])
{
	if (per_s >= 1e9)
		snprintf(buf, 32, "%.1f G", per_s / 1e9);
	else if (per_s >= 1e6)
		snprintf(buf, 32, "%.1f M", per_s / 1e6);
	else
		snprintf(buf, 32, "%.0f k", per_s / 1e3);
	return buf;
}

static void say_speed(struct doctor *d, const struct kvm_probe *p)
{
	double boot_s = BOOT_INSN / p->insn_per_s;
	char insn[32], exits[32];

	rate(p->insn_per_s, insn);
	rate(p->exits_per_s, exits);
	if (p->insn_per_s < INSN_FAIL)
		doctor_say(d, DOCTOR_FAIL, "stock-kernel",
			   "KVM emulates the kernel's code here, only bare test guests are of use: "
			   "take a host with hardware virtualization, nested or not",
			   "ring 0 runs %s instructions/s: a stock kernel would boot for %.0f "
			   "minutes",
			   insn, boot_s / 60);
	else if (p->insn_per_s < INSN_WARN)
		doctor_say(d, DOCTOR_WARN, "stock-kernel",
			   "an emulated processor below? for speed take a host with hardware "
			   "virtualization",
			   "ring 0 runs %s instructions/s: a stock kernel boots for about %.0f s",
			   insn, boot_s);
	else
		doctor_say(d, DOCTOR_PASS, "stock-kernel", NULL, "ring 0 runs %s instructions/s",
			   insn);
	doctor_figure(d, "instructions_per_s", p->insn_per_s);
	doctor_figure(d, "create_us", p->create_us);

	if (p->exits_per_s <= 0)
		doctor_say(d, DOCTOR_SKIP, "exits", "ask again when the host is less busy",
			   "not measured within %d ms", PROBE_MS);
	else
		doctor_say(d, doctor_grade((uint64_t)p->exits_per_s, EXITS_WARN, 0), "exits",
			   "disks and the console pay for it; nested virtualization is slow here, "
			   "bare metal is not",
			   "%s exits/s", exits);
	doctor_figure(d, "exits_per_s", p->exits_per_s);
}

static void check_speed(struct doctor *d)
{
	static const char log[] =
		"look into the kernel's log (dmesg | grep -i kvm); is another hypervisor using the "
		"processor's virtualization?";
	struct trial t = {.r = -EIO};
	int r = doctor_try(trial, &t, sizeof(t), PROBE_MS);

	if ((r == 0 && t.r == 0) || (r == -ETIMEDOUT && t.probe.insn_per_s > 0))
		say_speed(d, &t.probe);
	else if (r == -ETIMEDOUT)
		doctor_say(d, DOCTOR_FAIL, "stock-kernel", log,
			   "a small guest was not done within %d ms", PROBE_MS);
	else
		doctor_say(d, DOCTOR_FAIL, "stock-kernel", log, "a small guest does not run: %s",
			   r == 0 ? t.err.msg : strerror(-r));
}

void doctor_kvm(struct doctor *d)
{
	cleanup_fd int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (kvm < 0) {
		say_open(d, errno);
		return;
	}
	doctor_say(d, DOCTOR_PASS, "device", NULL, "/dev/kvm opens");
	if (!check_api(d, kvm))
		return;
	check_caps(d, kvm);
	check_speed(d);
}
