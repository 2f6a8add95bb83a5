/* churn with 16 MiB: for the bench of forks. */
	.set	AREA_MIB, 16
	.include "churn.S"
