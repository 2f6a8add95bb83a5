#include "pull/pull.h"

#include <stdlib.h>
#include <string.h>

#include "pull/erofs.h"
#include "pull/erofs_cuts.h"
#include "pull/layer.h"
#include "pull/layout.h"
#include "pull/merge.h"
#include "pull/source.h"
#include "pull/tree.h"
#include "pull/tree_store.h"
#include "pull/unpack.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/err.h"
#include "smfs/base/num.h"
#include "smfs/base/workers.h"

/* Download on so far to tell a damaged layer from a malformed one. */
#define CHECK_REST_MAX (16u << 20)

struct pulling;

struct layer_job {
	struct pulling *p;
	const struct layer_desc *desc;
	char name[DIGEST_STR_MAX]; /* of the layer in the store: its diff_id */
	bool stored;		   /* already */
	struct tree *tree;
	struct err err;
	int ret;
};

struct pulling {
	struct smfs_store *s;
	const struct pull_options *o;
	struct cancel *cancel;
	struct pull_counters *c;
	struct pull_result *result;
	struct source *source;
	struct smfs_ingest *ing;
	struct document manifest_doc, config_doc;
	struct manifest manifest;
	struct layer_job *jobs;
	_Atomic uint64_t budget;
	int64_t created;
	int64_t newest; /* youngest time in the merged tree, seconds */
	struct smfs_entry rootfs;
	struct tree *merged; /* rootfs's xattrs point into it */
};

/* ---- what is there already ---------------------------------------------------------------- */

static bool xattr_get(const struct smfs_entry *e, const char *name, char *out, size_t max)
{
	for (size_t i = 0; e && i < e->nxattrs; i++) {
		const struct smfs_xattr *x = &e->xattrs[i];

		if (strcmp(x->name, name) != 0 || x->len >= max)
			continue;
		memcpy(out, x->value, x->len);
		out[x->len] = '\0';
		return true;
	}
	return false;
}

/* Whether the store's image of this name has `value` as its `xattr`, and is for the wanted
 * platform. */
static int image_has(struct pulling *p, const char *xattr, const struct digest *value, bool *out,
		     struct err *err)
{
	char want[DIGEST_STR_MAX], wanted_platform[3 * PLATFORM_FIELD + 3];
	char have[DIGEST_STR_MAX], platform[3 * PLATFORM_FIELD + 3], manifest[DIGEST_STR_MAX];
	const struct smfs_entry *e;
	struct smfs_name name;
	struct smfs_dir *d;
	int r = smfs_name_get(p->s, SMFS_IMAGE, p->o->name, &name, err);

	*out = false;
	if (r == -ENOENT)
		return 0;
	if (r < 0 || (r = smfs_dir_open(p->s, &name.root, &d, err)) < 0)
		return r;
	e = smfs_dir_find(d, "manifest.json");
	*out = xattr_get(e, xattr, have, sizeof(have)) &&
	       strcmp(have, digest_format(value, want)) == 0 &&
	       xattr_get(e, XATTR_PLATFORM, platform, sizeof(platform)) &&
	       strcmp(platform, platform_format(&p->o->platform, wanted_platform)) == 0 &&
	       xattr_get(e, XATTR_MANIFEST, manifest, sizeof(manifest)) &&
	       digest_parse(manifest, &p->result->manifest, NULL) == 0;
	smfs_dir_close(d);
	return 0;
}

static int check_current(struct pulling *p, struct err *err)
{
	int r = p->source->ops->resolve(p->source, &p->result->source, err);

	if (r == -ENOTSUP) {
		err_clear(err);
		return 0;
	}
	return r < 0 ? r
		     : image_has(p, XATTR_SOURCE, &p->result->source, &p->result->up_to_date, err);
}

/* ---- manifest and config ------------------------------------------------------------------ */

static int get_manifest(struct pulling *p, struct err *err)
{
	struct descriptor chosen;
	struct document top;
	bool index;
	int r = p->source->ops->manifest(p->source, NULL, &top, err);

	if (r < 0)
		return r;
	p->result->source = top.digest;
	r = manifest_is_index(top.body, top.len, top.media_type, &index, err);
	if (r == 0 && index)
		r = index_choose(top.body, top.len, &p->o->platform, &chosen, err);
	if (r == 0 && index) {
		document_free(&top);
		r = p->source->ops->manifest(p->source, &chosen, &top, err);
		if (r < 0)
			return r;
		r = manifest_is_index(top.body, top.len, chosen.media_type, &index, err);
		if (r == 0 && index)
			r = err_set(err, EBADMSG, "manifest: an index inside an index");
	}
	if (r < 0) {
		document_free(&top);
		return r;
	}
	p->manifest_doc = top;
	p->result->manifest = top.digest;
	return manifest_parse(top.body, top.len, &p->manifest, err);
}

static int get_config(struct pulling *p, struct err *err)
{
	int r = blob_load(p->source, &p->manifest.config, CONFIG_MAX, &p->config_doc, err);

	if (r == 0)
		r = config_apply(p->config_doc.body, p->config_doc.len, &p->o->platform,
				 &p->manifest, &p->created, err);
	return r;
}

/* ---- layers ------------------------------------------------------------------------------- */

static int read_layer(struct layer_job *j, struct err *err)
{
	struct pulling *p = j->p;
	struct err wrong = ERR_INIT;
	struct unpack *u = NULL;
	struct blob *b;
	int r = blob_open(p->source, &j->desc->d, &p->c->bytes, &b, err);

	if (r < 0)
		return r;
	r = unpack_open(b, j->desc->compression, p->o->max_size, &u, err);
	if (r == 0)
		r = layer_read(p->ing, u, &p->budget, &j->tree, err);
	if (r == 0)
		r = unpack_finish(u, &j->desc->diff_id, err);
	if (r == -EBADMSG && blob_check_rest(b, CHECK_REST_MAX, &wrong) == -EBADMSG && err)
		*err = wrong;
	unpack_close(u);
	blob_close(b);
	return r;
}

static void run_layer(void *arg)
{
	struct layer_job *j = arg;
	char digest[DIGEST_STR_MAX];

	if (cancelled(j->p->cancel)) {
		j->ret = cancel_error(&j->err);
		return;
	}
	j->ret = read_layer(j, &j->err);
	if (j->ret < 0) {
		err_wrap(&j->err, j->ret, "layer %s", digest_format(&j->desc->d.digest, digest));
		cancel_now(j->p->cancel); /* the others would work for nothing */
	} else {
		atomic_fetch_add(&j->p->c->layers, 1);
	}
}

static int plan_layers(struct pulling *p, struct err *err)
{
	p->jobs = calloc(p->manifest.nlayers + 1, sizeof(*p->jobs));
	if (!p->jobs)
		return err_set(err, ENOMEM, "out of memory");
	for (size_t i = 0; i < p->manifest.nlayers; i++) {
		struct layer_job *j = &p->jobs[i];
		struct smfs_name name;
		int r;

		*j = (struct layer_job){.p = p, .desc = &p->manifest.layers[i]};
		digest_format(&j->desc->diff_id, j->name);
		r = smfs_name_get(p->s, SMFS_LAYER, j->name, &name, err);
		if (r < 0 && r != -ENOENT)
			return r;
		j->stored = r == 0;
		if (j->stored) {
			p->result->layers_reused++;
			p->c->layers++;
		} else {
			p->c->total += j->desc->d.size;
		}
	}
	err_clear(err);
	p->result->layers = p->manifest.nlayers;
	p->c->layers_total = p->manifest.nlayers;
	return 0;
}

static int get_layers(struct pulling *p, struct err *err)
{
	const struct layer_job *failed = NULL;
	struct workers *w;
	int r = workers_new(&w, p->o->jobs, 1, err);

	if (r < 0)
		return r;
	p->c->phase = PHASE_LAYERS;
	for (size_t i = 0; i < p->manifest.nlayers; i++)
		if (!p->jobs[i].stored)
			workers_submit(w, run_layer, &p->jobs[i]);
	workers_wait(w);
	workers_free(w);
	/* The first real failure, not those it cut short. */
	for (size_t i = 0; i < p->manifest.nlayers; i++) {
		const struct layer_job *j = &p->jobs[i];

		if (j->ret < 0 && (!failed || failed->ret == -ECANCELED))
			failed = j;
	}
	if (failed) {
		if (err)
			*err = failed->err;
		return failed->ret;
	}
	return 0;
}

/* ---- merging ------------------------------------------------------------------------------ */

static int publish_layer(struct pulling *p, struct layer_job *j, struct err *err)
{
	struct smfs_entry root;
	int r = tree_store(p->ing, j->tree, TREE_LAYER, &root, err);

	/* Replacing: another pull may have brought the same layer meanwhile, and one image may hold
	 * it twice. */
	return r < 0 ? r
		     : smfs_ingest_name(p->ing, SMFS_LAYER, j->name, &root.dir, &root, SMFS_REPLACE,
					err);
}

struct survey {
	int64_t newest;
	uint64_t size, max_size;
	struct err *err;
};

/* What mkfs.erofs needs to know, and what it would fail at without saying why. */
static int survey(struct tnode *n, void *arg)
{
	struct survey *s = arg;
	struct tinode *i = n->inode;

	if (strlen(n->name) > EROFS_NAME_MAX)
		return err_set(s->err, ENOTSUP,
			       "%.60s...: a name of %zu bytes; rootfs.erofs holds up to %d",
			       n->name, strlen(n->name), EROFS_NAME_MAX);
	/* The link count was tree_store()'s; now it tells an inode not yet seen. */
	if (i->nlink && S_ISREG(i->mode)) {
		i->nlink = 0;
		if (add_overflow_u64(s->size, i->content.size, &s->size) || s->size > s->max_size)
			return err_set(s->err, EFBIG,
				       "its files are more than the %lu bytes allowed; raise "
				       "--max-size if that is right",
				       (unsigned long)s->max_size);
	}
	s->newest = MAX(s->newest, i->mtime_sec + (i->mtime_nsec != 0));
	return tnode_is_dir(n) ? tnode_each(n, survey, arg) : 0;
}

static int merge_layers(struct pulling *p, struct err *err)
{
	struct survey s = {.newest = p->created, .max_size = p->o->max_size, .err = err};
	int r = 0;

	p->c->phase = PHASE_MERGE;
	p->merged = tree_new();
	if (!p->merged)
		return err_set(err, ENOMEM, "merge layers: out of memory");
	for (size_t i = 0; i < p->manifest.nlayers && r == 0; i++) {
		struct layer_job *j = &p->jobs[i];
		struct smfs_name name;

		if (j->stored) {
			r = smfs_name_get(p->s, SMFS_LAYER, j->name, &name, err);
			if (r == 0)
				r = tree_load_layer(p->s, &name, &j->tree, err);
		} else {
			r = publish_layer(p, j, err);
		}
		if (r == 0)
			r = merge_layer(p->merged, j->tree, err);
		if (r < 0)
			return err_wrap(err, r, "layer %zu (%s)", i + 1, j->name);
		tree_free(j->tree);
		j->tree = NULL;
	}
	if (r == 0)
		r = tree_store(p->ing, p->merged, 0, &p->rootfs, err);
	if (r == 0)
		r = survey(p->merged->root, &s);
	p->newest = s.newest;
	return r;
}

/* ---- publishing --------------------------------------------------------------------------- */

static void add_stat(struct pulling *p, struct smfs_ingest *ing)
{
	struct smfs_ingest_stat st;

	smfs_ingest_stat(ing, &st);
	p->result->new_bytes += st.new_bytes;
	p->result->stored_bytes += st.stored_bytes;
}

static int commit_layers(struct pulling *p, struct err *err)
{
	struct smfs_ingest *ing = steal_ptr(&p->ing);

	if (cancelled(p->cancel)) {
		smfs_ingest_abort(ing);
		return cancel_error(err);
	}
	add_stat(p, ing);
	return smfs_ingest_commit(ing, err);
}

static int ingest_erofs(struct pulling *p, struct smfs_ingest *ing, int fd,
			struct smfs_content *out, struct err *err)
{
	struct smfs_ingest_stat before, after;
	cleanup_free uint64_t *cuts = NULL;
	size_t n = 0;
	int r = erofs_cuts(fd, &cuts, &n, err);

	smfs_ingest_stat(ing, &before);
	if (r == 0)
		r = smfs_ingest_fd(ing, fd, cuts, n, out, err);
	smfs_ingest_stat(ing, &after);
	p->result->erofs_bytes = out->size;
	p->result->erofs_dup_bytes =
		after.dup_bytes - before.dup_bytes + after.zero_bytes - before.zero_bytes;
	return r < 0 ? err_wrap(err, r, "store rootfs.erofs") : 0;
}

static int publish(struct pulling *p, struct smfs_ingest *ing, int erofs, struct err *err)
{
	char manifest[DIGEST_STR_MAX], source[DIGEST_STR_MAX], platform[3 * PLATFORM_FIELD + 3];
	struct smfs_xattr origin[] = {
		{.name = XATTR_MANIFEST, .value = manifest},
		{.name = XATTR_SOURCE, .value = source},
		{.name = XATTR_PLATFORM, .value = platform},
	};
	struct smfs_entry e[4],
		attr = {.mode = S_IFDIR | 0755, .nlink = 1, .mtime_sec = p->created};
	struct smfs_id dir;
	int r;

	digest_format(&p->result->manifest, manifest);
	digest_format(&p->result->source, source);
	platform_format(&p->o->platform, platform);
	for (size_t i = 0; i < ARRAY_SIZE(origin); i++)
		origin[i].len = strlen(origin[i].value);
	for (size_t i = 0; i < ARRAY_SIZE(e); i++)
		e[i] = (struct smfs_entry){
			.mode = S_IFREG | 0644, .nlink = 1, .mtime_sec = p->created};
	e[0].name = "manifest.json";
	e[0].xattrs = origin;
	e[0].nxattrs = ARRAY_SIZE(origin);
	e[1].name = "config.json";
	e[2] = p->rootfs;
	e[2].name = "rootfs";
	e[3].name = "rootfs.erofs";
	r = smfs_ingest_mem(ing, p->manifest_doc.body, p->manifest_doc.len, &e[0].content, err);
	if (r == 0)
		r = smfs_ingest_mem(ing, p->config_doc.body, p->config_doc.len, &e[1].content, err);
	if (r == 0)
		r = ingest_erofs(p, ing, erofs, &e[3].content, err);
	if (r == 0)
		r = smfs_ingest_dir(ing, e, ARRAY_SIZE(e), &dir, err);
	if (r == 0)
		r = smfs_ingest_name(ing, SMFS_IMAGE, p->o->name, &dir, &attr, SMFS_REPLACE, err);
	return r;
}

static int make_image(struct pulling *p, struct err *err)
{
	struct smfs_ingest *ing;
	int r;

	p->c->phase = PHASE_EROFS;
	cleanup_fd int erofs = erofs_build(p->s, &p->rootfs, p->newest, p->cancel, err);

	if (erofs < 0)
		return erofs;
	p->c->phase = PHASE_COMMIT;
	r = smfs_ingest_begin(p->s, &ing, err);
	if (r < 0)
		return r;
	r = publish(p, ing, erofs, err);
	if (r == 0 && cancelled(p->cancel))
		r = cancel_error(err);
	if (r < 0) {
		smfs_ingest_abort(ing);
		return r;
	}
	add_stat(p, ing);
	return smfs_ingest_commit(ing, err);
}

/* ---- the whole ---------------------------------------------------------------------------- */

static int run(struct pulling *p, struct err *err)
{
	int r = erofs_available(err);

	if (r < 0)
		return r;
	r = p->o->ref.kind == REF_LAYOUT
		    ? layout_open(&p->o->ref, p->cancel, &p->source, err)
		    : registry_open(&p->o->ref, &p->o->registry, &p->source, err);
	if (r == 0)
		r = check_current(p, err);
	if (r < 0 || p->result->up_to_date)
		return r;
	r = get_manifest(p, err);
	/* An index may change in other platforms only. */
	if (r == 0)
		r = image_has(p, XATTR_MANIFEST, &p->result->manifest, &p->result->up_to_date, err);
	if (r < 0 || p->result->up_to_date)
		return r;
	r = get_config(p, err);
	if (r == 0)
		r = plan_layers(p, err);
	if (r == 0)
		r = smfs_ingest_begin(p->s, &p->ing, err);
	if (r == 0)
		r = get_layers(p, err);
	if (r == 0)
		r = merge_layers(p, err);
	if (r == 0)
		r = commit_layers(p, err);
	p->result->downloaded = p->c->bytes;
	return r == 0 ? make_image(p, err) : r;
}

int pull_image(struct smfs_store *s, const struct pull_options *o, struct cancel *cancel,
	       struct pull_counters *counters, struct pull_result *out, struct err *err)
{
	struct pulling p = {.s = s, .o = o, .cancel = cancel, .c = counters, .result = out};
	int r;

	memset(out, 0, sizeof(*out));
	atomic_init(&p.budget, o->max_size);
	r = run(&p, err);
	if (p.ing)
		smfs_ingest_abort(p.ing);
	for (size_t i = 0; p.jobs && i < p.manifest.nlayers; i++)
		tree_free(p.jobs[i].tree);
	free(p.jobs);
	tree_free(p.merged);
	manifest_free(&p.manifest);
	document_free(&p.manifest_doc);
	document_free(&p.config_doc);
	if (p.source)
		p.source->ops->close(p.source);
	return r < 0 ? err_wrap(err, r, "pull %s", o->name) : 0;
}
