#include "runner/proto/bootconf.h"

#include "runner/proto/tlv.h"

#include <stdlib.h>
#include <string.h>

#define CONF_MAGIC	0x63766d73u /* "smvc" */
#define CONF_VERSION	1u
#define CONF_RESOLV_MAX 4096u

enum {
	CONF_ROOT_DEVICE = 1,
	CONF_ROOT_FSTYPE = 2,
	CONF_ROOT_DAX = 3,
	CONF_ARG = 4,
	CONF_ENV = 5,
	CONF_CWD = 6,
	CONF_USER = 7,
	CONF_HOSTNAME = 8,
	CONF_MACHINE_ID = 9,
	CONF_RESOLV = 10,
	CONF_POWEROFF = 11,
	CONF_GENERATION = 12,
	CONF_UUID = 13,
	CONF_MAILBOX = 14,
	CONF_WALL = 15,
	CONF_DISK = 16, /* device, path, fstype as blob16 each; readonly u8 */
};

void bootconf_encode(struct writer *w, const struct bootconf *c)
{
	put_u32(w, CONF_MAGIC);
	put_u16(w, CONF_VERSION);
	put_tlv_str(w, CONF_ROOT_DEVICE, c->root_device);
	put_tlv_str(w, CONF_ROOT_FSTYPE, c->root_fstype);
	put_tlv_u8(w, CONF_ROOT_DAX, c->root_dax);
	put_tlv_list(w, CONF_ARG, c->argv);
	put_tlv_list(w, CONF_ENV, c->env);
	put_tlv_str(w, CONF_CWD, c->cwd);
	put_tlv_str(w, CONF_USER, c->user);
	put_tlv_str(w, CONF_HOSTNAME, c->hostname);
	put_tlv_str(w, CONF_MACHINE_ID, c->machine_id);
	put_tlv_str(w, CONF_RESOLV, c->resolv_conf);
	put_tlv_u8(w, CONF_POWEROFF, c->poweroff_on_exit);
	put_tlv_u64(w, CONF_GENERATION, c->generation);
	put_tlv(w, CONF_UUID, c->uuid, sizeof(c->uuid));
	put_tlv_u64(w, CONF_MAILBOX, c->mailbox_gpa);
	put_tlv_u64(w, CONF_WALL, c->wall_ns);
	for (unsigned i = 0; i < c->ndisks && i < BOOTCONF_DISKS_MAX; i++) {
		const struct bootconf_disk *d = &c->disk[i];
		size_t nd = strlen(d->device), np = strlen(d->path), nf = strlen(d->fstype);

		put_u16(w, CONF_DISK);
		put_u32(w, (uint32_t)(2 + nd + 2 + np + 2 + nf + 1));
		put_blob16(w, d->device, nd);
		put_blob16(w, d->path, np);
		put_blob16(w, d->fstype, nf);
		put_u8(w, d->readonly);
	}
}

static char *get_text(struct reader *r, struct tlv *t)
{
	size_t n;
	const char *p = get_blob16(r, AGENT_PATH_MAX, &n);
	char *s;

	if (!p || n == 0 || memchr(p, 0, n)) {
		t->bad = true;
		return NULL;
	}
	s = strndup(p, n);
	if (!s)
		t->oom = true;
	return s;
}

static void get_disk(struct tlv *t, struct bootconf *c)
{
	struct reader r = reader_of(t->p, t->len);
	struct bootconf_disk *d;

	if (c->ndisks == BOOTCONF_DISKS_MAX) {
		t->bad = true;
		return;
	}
	d = &c->disk[c->ndisks++];
	d->device = get_text(&r, t);
	d->path = get_text(&r, t);
	d->fstype = get_text(&r, t);
	d->readonly = get_u8(&r) != 0;
	if (!reader_done(&r) || !d->path || d->path[0] != '/')
		t->bad = true;
}

/* How many of the lists' entries there are yet. */
struct counts {
	unsigned args, env;
};

static void get_item(struct tlv *t, struct bootconf *c, struct counts *n)
{
	switch (t->tag) {
	case CONF_ROOT_DEVICE:
		tlv_strdup(t, &c->root_device, AGENT_PATH_MAX);
		break;
	case CONF_ROOT_FSTYPE:
		tlv_strdup(t, &c->root_fstype, AGENT_NAME_MAX);
		break;
	case CONF_ROOT_DAX:
		tlv_bool(t, &c->root_dax);
		break;
	case CONF_ARG:
		tlv_list(t, &c->argv, &n->args, AGENT_ARGS_MAX);
		break;
	case CONF_ENV:
		tlv_list(t, &c->env, &n->env, AGENT_ARGS_MAX);
		break;
	case CONF_CWD:
		tlv_strdup(t, &c->cwd, AGENT_PATH_MAX);
		break;
	case CONF_USER:
		tlv_strdup(t, &c->user, AGENT_NAME_MAX);
		break;
	case CONF_HOSTNAME:
		tlv_strdup(t, &c->hostname, AGENT_NAME_MAX);
		break;
	case CONF_MACHINE_ID:
		tlv_strdup(t, &c->machine_id, AGENT_MACHINE_ID_LEN);
		break;
	case CONF_RESOLV:
		tlv_strdup(t, &c->resolv_conf, CONF_RESOLV_MAX);
		break;
	case CONF_POWEROFF:
		tlv_bool(t, &c->poweroff_on_exit);
		break;
	case CONF_GENERATION:
		tlv_u64(t, &c->generation);
		break;
	case CONF_UUID:
		tlv_bytes(t, c->uuid, sizeof(c->uuid));
		break;
	case CONF_MAILBOX:
		tlv_u64(t, &c->mailbox_gpa);
		break;
	case CONF_WALL:
		tlv_u64(t, &c->wall_ns);
		break;
	case CONF_DISK:
		get_disk(t, c);
		break;
	default:
		break;
	}
}

int bootconf_decode(const void *data, size_t len, struct bootconf *c, struct err *err)
{
	struct reader r = reader_of(data, len);
	uint32_t magic = get_u32(&r);
	uint16_t version = get_u16(&r);
	struct counts n = {0};
	struct tlv t = {0};

	*c = (struct bootconf){0};
	if (!reader_ok(&r) || magic != CONF_MAGIC)
		return err_set(err, EBADMSG, "boot configuration: not one (magic %08x)", magic);
	if (version != CONF_VERSION)
		return err_set(err, ENOTSUP, "boot configuration: version %u, this agent knows %u",
			       version, CONF_VERSION);
	while (tlv_next(&r, &t)) {
		get_item(&t, c, &n);
		if (t.bad || t.oom)
			break;
	}
	if (tlv_ok(&r, &t))
		return 0;
	bootconf_free(c);
	if (t.oom)
		return err_set(err, ENOMEM, "boot configuration: out of memory");
	return err_set(err, EBADMSG, "boot configuration: malformed at item %u", t.tag);
}

void bootconf_free(struct bootconf *c)
{
	free(c->root_device);
	free(c->root_fstype);
	strv_free(c->argv);
	strv_free(c->env);
	free(c->cwd);
	free(c->user);
	free(c->hostname);
	free(c->machine_id);
	free(c->resolv_conf);
	for (unsigned i = 0; i < BOOTCONF_DISKS_MAX; i++) {
		free(c->disk[i].device);
		free(c->disk[i].path);
		free(c->disk[i].fstype);
	}
	*c = (struct bootconf){0};
}
