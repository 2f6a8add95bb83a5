/*
 * merge.h - apply a layer's tree to the layers below it.
 *
 * First everything the layer deletes goes from the layers below, then everything it holds is
 * added: so a whiteout hides lower layers only, wherever it stood in the archive. Hard links to
 * lower layers are resolved before either, since their target may be replaced by the same layer.
 * What has one type below and another above is replaced; two directories merge.
 */
#ifndef PULL_MERGE_H
#define PULL_MERGE_H

struct err;
struct tree;

/* Inodes of `layer` become shared with `base`; `layer` is spent and only good for tree_free(). */
int merge_layer(struct tree *base, struct tree *layer, struct err *err);

#endif
