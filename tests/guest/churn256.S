/* churn with 256 MiB: for the bench of live snapshots. */
	.set	AREA_MIB, 256
	.include "churn.S"
