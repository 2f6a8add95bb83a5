/* layout.h - an OCI image layout (a folder with oci-layout, index.json, blobs/) as a source. */
#ifndef PULL_LAYOUT_H
#define PULL_LAYOUT_H

struct cancel;
struct err;
struct ref;
struct source;

/* Opens what `ref` (REF_LAYOUT) names: its tag, or without one the layout's only image. */
int layout_open(const struct ref *ref, struct cancel *cancel, struct source **out, struct err *err);

#endif
