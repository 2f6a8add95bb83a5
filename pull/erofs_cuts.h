/*
 * erofs_cuts.h - where each file's data begins and ends inside an EROFS image.
 *
 * The store cuts its chunks there, and so finds the image's data among the chunks of the files
 * themselves. Only plain and tail-inlined files of an uncompressed image have such places; others
 * are passed over. The image is read as hostile: every address is checked against its size, the
 * work is bounded, a directory loop ends at that bound.
 */
#ifndef PULL_EROFS_CUTS_H
#define PULL_EROFS_CUTS_H

#include <stddef.h>
#include <stdint.h>

struct err;

/* Ascending distinct offsets, for smfs_ingest_fd(); the caller frees *cuts. */
int erofs_cuts(int fd, uint64_t **cuts, size_t *n, struct err *err);

#endif
