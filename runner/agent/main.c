/*
 * smvm-init - process 1 of a guest. The order of boot, and nothing else.
 */
#include "runner/agent/boot.h"
#include "runner/agent/init.h"
#include "runner/agent/modules.h"
#include "smfs/base/log.h"

#include <string.h>
#include <unistd.h>

static int boot(struct guest *g, struct bootconf *conf, int *listener, struct err *err)
{
	int r;

	if ((r = boot_early(err)) < 0)
		return r;
	r = modules_load(MODULES_LIST, err);
	if (r < 0) {
		log_warn("%s", err->msg);
		err_clear(err);
	}
	if ((r = boot_read_conf(conf, err)) < 0)
		return r;
	g->mailbox = boot_map_mailbox(conf->mailbox_gpa);
	if ((r = boot_root(conf, g->rootfs, err)) < 0)
		return r;
	if ((r = boot_disks(conf, err)) < 0)
		return r;
	g->cgroup = boot_cgroup(&g->work);
	boot_settle(g);
	g->shared->generation = conf->generation;
	memcpy(g->shared->uuid, conf->uuid, sizeof(conf->uuid));
	*listener = init_listen(err);
	if (*listener < 0) {
		/* The workload can still run; the host sees from the console why nobody answers. */
		log_err("%s", err->msg);
		err_clear(err);
	}
	return 0;
}

int main(void)
{
	struct bootconf conf = {0};
	struct guest g = {.conf = &conf,
			  .identity = &identity_linux,
			  .root = "",
			  .power_wr = -1,
			  .ended_rd = -1};
	struct err err = ERR_INIT;
	int listener = -1;

	log_init("smvm-init", LOG_INFO);
	if (getpid() != 1) {
		log_err("smvm-init is process 1 of a guest and does nothing elsewhere");
		return EXIT_USAGE;
	}
	if (shared_new(&g.shared, &err) < 0 || boot(&g, &conf, &listener, &err) < 0) {
		log_err("boot failed: %s", err.msg);
		init_power_off(&g, 0);
	}
	init_power_off(&g, init_run(&g, listener));
}
