/* repair_priv.h - one repair: repair.c (order, swap), repair_packs.c, repair_names.c. */
#ifndef SMFS_STORE_REPAIR_PRIV_H
#define SMFS_STORE_REPAIR_PRIV_H

#include "smfs/store/nametab.h"
#include "smfs/store/store_priv.h"

#define INDEX_NEW   "index.new"
#define JOURNAL_NEW "journal.new"
#define INDEX_BAD   "index.bad-"
#define JOURNAL_BAD "journal.bad-"

struct repair {
	const char *dir;
	int dirfd;
	struct smfs_fsck *out;
	uint8_t uuid[UUID_LEN];
	bool resumed; /* an earlier repair was cut short between journal and index */

	struct index *ix;	/* the new one */
	struct index_meta meta; /* of the new one */

	/* What can be read of the old index. */
	struct nametab old;
	struct index_meta old_meta;
	bool old_meta_known;
	bool old_whole; /* all names were read, and are those of its last commit */

	/* repair_names.c */
	struct nametab names;
	bool journal_new; /* JOURNAL_NEW is to take the journal's place */
};

/* Something put right, or decided by what proves it. */
void repair_report(struct repair *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Something lost, or decided without proof. */
void repair_guess(struct repair *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Every whole frame of every pack into r->ix, and the packs' lengths; totals into r->meta. */
int repair_packs(struct repair *r, struct err *err);

/* The store's uuid by the packs' headers: most of them. false = no header can be read. */
bool repair_uuid_of_packs(struct repair *r, uint8_t uuid[UUID_LEN]);

/*
 * The names, from the journal and what is known of the old index, into r->names; seq and journal
 * length into r->meta. Writes JOURNAL_NEW, synced, if the journal does not lead there by itself.
 */
int repair_names(struct repair *r, struct err *err);

#endif
