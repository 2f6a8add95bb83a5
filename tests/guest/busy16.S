/* idle16 without its naps: for the bench of forks. */
	.set	BUSY, 1
	.include "idle16.S"
