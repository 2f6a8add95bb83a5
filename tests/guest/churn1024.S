/* churn with 1024 MiB: for the bench of live snapshots. */
	.set	AREA_MIB, 1024
	.include "churn.S"
