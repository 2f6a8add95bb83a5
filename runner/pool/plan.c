#include "runner/pool/plan.h"

#include "smfs/base/num.h"

static unsigned affordable(const struct plan_in *in)
{
	const uint64_t taken = in->promised + in->reserve;

	if (!in->vm_bytes || in->available <= taken)
		return in->vm_bytes ? 0 : in->max;
	return (unsigned)MIN((in->available - taken) / in->vm_bytes, (uint64_t)in->max);
}

struct plan_out plan(const struct plan_in *in)
{
	const unsigned there = in->warm + in->coming + in->claimed;
	const unsigned ready = in->warm + in->coming;
	const unsigned wanted = in->min + in->waiting;
	struct plan_out out = {0};

	if (ready < wanted && there < in->max) {
		const unsigned more = MIN(wanted - ready, in->max - there);

		out.start = MIN(more, affordable(in));
		out.short_of_memory = more - out.start;
	} else if (ready > wanted) {
		out.end = MIN(in->idle, ready - wanted);
	}
	return out;
}
