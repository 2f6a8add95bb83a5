/* clock.c - is time cheap on this host, and can snapshots of other hosts keep theirs? */
#include "runner/doctor/doctor.h"
#include "smfs/base/cleanup.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define TSC_MS 2000
#define SOURCE "/sys/devices/system/clocksource/clocksource0/current_clocksource"

static void check_source(struct doctor *d)
{
	cleanup_free char *name = doctor_line(SOURCE);

	if (!name)
		doctor_say(d, DOCTOR_SKIP, "source", "mount /sys", "no " SOURCE);
	else if (!strcmp(name, "tsc") || !strcmp(name, "kvm-clock") || !strncmp(name, "hyperv", 6))
		doctor_say(d, DOCTOR_PASS, "source", NULL, "%s", name);
	else
		doctor_say(d, DOCTOR_WARN, "source",
			   "the kernel has dropped the TSC (dmesg | grep -i tsc): each look at the "
			   "clock is a system call or worse, and guests' clocks drift",
			   "%s", name);
}

struct tsc {
	int scaling, khz;
};

/* Asked of a vCPU, in a child: a broken KVM may not come back from making one. */
static void ask_tsc(void *buf)
{
	struct tsc *t = buf;
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int machine = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, 0);
	int vcpu = machine < 0 ? -1 : ioctl(machine, KVM_CREATE_VCPU, 0);

	t->scaling = ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL);
	t->khz = vcpu < 0 ? -1 : ioctl(vcpu, KVM_GET_TSC_KHZ, 0);
}

static void check_scaling(struct doctor *d)
{
	struct tsc t = {.khz = -1};
	const int r = doctor_try(ask_tsc, &t, sizeof(t), TSC_MS);
	const int khz = t.khz;

	if (r < 0) {
		doctor_say(d, DOCTOR_SKIP, "tsc", "see kvm.stock-kernel", "no vCPU to ask: %s",
			   strerror(-r));
		return;
	}
	if (khz <= 0) {
		doctor_say(
			d, DOCTOR_WARN, "tsc",
			"take a KVM that does (KVM_CAP_GET_TSC_KHZ); until then snapshots are restored "
			"without a check of their clock's rate",
			"KVM does not tell the TSC's rate");
		return;
	}
	if (t.scaling > 0)
		doctor_say(d, DOCTOR_PASS, "tsc", NULL,
			   "%.1f MHz, and others for guests that "
			   "come from them (scaling)",
			   khz / 1e3);
	else
		doctor_say(d, DOCTOR_WARN, "tsc",
			   "a snapshot of a host with another rate (by 250 ppm) is refused; take "
			   "snapshots on hosts like this",
			   "%.1f MHz, no scaling", khz / 1e3);
	doctor_figure(d, "khz", khz);
}

void doctor_clock(struct doctor *d)
{
	cleanup_fd int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	check_source(d);
	if (kvm < 0 || ioctl(kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
		doctor_say(d, DOCTOR_SKIP, "tsc", "see kvm.device", "no KVM to ask");
	else
		check_scaling(d);
}
