#include "runner/control/publish.h"

#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>

#include "runner/control/spawn.h"
#include "smfs/base/cleanup.h"

int publish_ports(struct rundir *d, const struct forward *list, unsigned n, struct err *err)
{
	char path[RUNDIR_PATH_MAX];
	struct forwarder *f;
	int r;

	d->info.forwards[0] = '\0';
	if (n == 0)
		return 0;
	r = forwarder_open(list, n, &f, err);
	if (r < 0)
		return r;
	forwarder_text(f, d->info.forwards, sizeof(d->info.forwards));
	r = forwarder_start(f, rundir_file(d, "vsock.sock", path), NULL, err);
	forwarder_free(f);
	return r;
}

int publish_for(const struct rundir *d, struct forwarder *f, struct err *err)
{
	char path[RUNDIR_PATH_MAX], log[RUNDIR_PATH_MAX];
	cleanup_fd int vm = pidfd_open(d->info.pid, 0);
	struct rundir *again;

	if (vm < 0)
		return err_errno(err, "watch process %d", (int)d->info.pid);
	/* Found still: the number was that process's when it was opened. */
	if (rundir_find(d->info.id, &again, err) < 0)
		return -err->code;
	const bool same = again->info.pid == d->info.pid;
	rundir_release(again);
	if (!same)
		return err_set(err, ESRCH, "VM %s has ended", d->info.name);
	return forwarder_start_until(f, rundir_file(d, "vsock.sock", path), vm,
				     rundir_file(d, "vmm.log", log), err);
}

int publish_check(const struct forward *list, unsigned n, uint64_t machines, struct err *err)
{
	char text[FORWARD_TEXT_MAX];

	for (unsigned i = 0; machines > 1 && i < n; i++)
		if (list[i].port)
			return err_set(
				err, EINVAL,
				"%s: only one machine can have port %u; let it be 0 for a free "
				"one each",
				forward_text(&list[i], list[i].port, text), list[i].port);
	return 0;
}

/* The next of `list`, divided by spaces; NULL: none. */
static const char *next_forward(const char *list, size_t *n)
{
	list += strspn(list, " ");
	*n = strcspn(list, " ");
	return *n ? list : NULL;
}

static unsigned port_of(const char *forward)
{
	/* [ADDRESS]:PORT:TARGET, and the target may be a path with colons. */
	const char *p = forward[0] == '[' ? strchr(forward, ']') : forward;
	const char *colon = p ? strchr(p, ':') : NULL;
	const unsigned long port = colon ? strtoul(colon + 1, NULL, 10) : 0;

	return port <= UINT16_MAX ? (unsigned)port : 0;
}

unsigned publish_port(const char *forwards, unsigned index)
{
	size_t n;

	while ((forwards = next_forward(forwards, &n)) && index--)
		forwards += n;
	return forwards ? port_of(forwards) : 0;
}

void publish_add(json_t *j, const char *forwards)
{
	json_t *list;
	size_t n;

	if (!forwards || !forwards[0])
		return;
	list = json_array();
	json_object_set_new(j, "host_port", json_integer(publish_port(forwards, 0)));
	for (; (forwards = next_forward(forwards, &n)); forwards += n)
		json_array_append_new(list, json_stringn(forwards, n));
	json_object_set_new(j, "forwards", list);
}
