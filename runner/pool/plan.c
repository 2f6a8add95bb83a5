#include "runner/pool/plan.h"

#include "smfs/base/num.h"

static unsigned affordable(const struct plan_in *in)
{
	const uint64_t taken = in->promised + in->reserve;

	if (!in->vm_bytes || in->available <= taken)
		return in->vm_bytes ? 0 : in->max;
	return (unsigned)MIN((in->available - taken) / in->vm_bytes, (uint64_t)in->max);
}

static unsigned wanted(const struct plan_in *in)
{
	return in->min + in->waiting;
}

bool plan_wants_more(const struct plan_in *in)
{
	const unsigned ready = in->warm + in->coming;

	return ready < wanted(in) && ready + in->claimed < in->max;
}

struct plan_out plan(const struct plan_in *in)
{
	const unsigned ready = in->warm + in->coming;
	struct plan_out out = {0};

	if (plan_wants_more(in)) {
		const unsigned more = MIN(wanted(in) - ready, in->max - ready - in->claimed);

		out.start = MIN(more, affordable(in));
		out.short_of_memory = more - out.start;
	} else if (ready > wanted(in)) {
		out.end = MIN(in->idle, ready - wanted(in));
	}
	return out;
}
