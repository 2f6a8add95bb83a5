/*
 * identity.h - the files that say who a guest is, under a root prefix. See guest.h for the
 * operations on the kernel.
 */
#ifndef RUNNER_AGENT_IDENTITY_H
#define RUNNER_AGENT_IDENTITY_H

#include "smfs/base/err.h"

/*
 * /etc/hostname, and /etc/hosts where it is missing, empty or ours (it then begins with our mark):
 * an image's own hosts file is left alone.
 */
int identity_write_hostname(const char *root, const char *name, struct err *err);
int identity_write_machine_id(const char *root, const char *id, struct err *err);

#endif
