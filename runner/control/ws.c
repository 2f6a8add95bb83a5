#include "runner/control/ws.h"

#include "runner/control/jsontext.h"
#include "runner/control/vmm_internal.h"
#include "runner/control/where.h"
#include "runner/snapshot/ws_save.h"

#include "smfs/base/cleanup.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "" where the VM's snapshot is not in the mount. */
static const char *name_in_mount(const struct vmm *v, char dir[PATH_MAX])
{
	cleanup_free char *top = NULL, *real = realpath(v->dir->info.snapshot, NULL);
	cleanup_free char *snapshots = NULL;

	if (asprintf(&top, "%s/snapshots", v->mount) < 0) {
		top = NULL;
		return "";
	}
	snapshots = realpath(top, NULL);
	const size_t n = snapshots ? strlen(snapshots) : 0;
	if (!real || !n || strncmp(real, snapshots, n) != 0 || real[n] != '/' ||
	    snprintf(dir, PATH_MAX, "%s", real + n + 1) >= PATH_MAX)
		return "";
	return dir;
}

int ws_request(void *arg, struct control_request *rq, const json_t *body, json_t *reply,
	       struct err *err)
{
	struct vmm *v = arg;
	const char *name = json_string_value(json_object_get(body, "name"));
	char store[PATH_MAX], dir[PATH_MAX];
	struct ws_save_stats st;
	int r;

	if (!name)
		return err_set(err, EPROTO, "control request: ws without a name");
	if ((r = where_store(v->mount, store, err)) < 0 ||
	    (r = ws_save(&v->machine, store, v->mount, name_in_mount(v, dir), name, &st, err)) < 0)
		return err_wrap(err, r, "working set of %s", v->dir->info.name);
	json_object_set_new(reply, "name", json_text(name));
	json_object_set_new(reply, "read_pages", json_integer((json_int_t)st.read_pages));
	json_object_set_new(reply, "written_pages", json_integer((json_int_t)st.written_pages));
	json_object_set_new(reply, "ranges", json_integer(st.ranges));
	json_object_set_new(reply, "total_us", json_integer((json_int_t)st.us));
	return 0;
}

json_t *prefault_json(const struct prefault *p)
{
	struct prefault_stats st;

	prefault_stats(p, &st);
	return json_pack("{s:s, s:i, s:I, s:I, s:I, s:I}", "state", prefault_state_name(st.state),
			 "refused", st.state == PREFAULT_REFUSED, "read_pages",
			 (json_int_t)st.read_pages, "written_pages", (json_int_t)st.written_pages,
			 "us", (json_int_t)st.us, "ahead_us", (json_int_t)st.ahead_us);
}
