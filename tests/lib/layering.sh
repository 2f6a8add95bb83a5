#!/bin/sh
# Dependencies point one way: pull -> smfs, runner -> smfs; base knows nothing; no one includes a command.
cd "$(dirname "$0")/../.." || exit 1
bad=$(
	grep -rnE '#include "(runner|pull)/' smfs
	grep -rnE '#include "pull/' runner
	grep -rnE '#include "runner/' pull
	grep -rnE '#include "smfs/(store|mount|cmd)/' smfs/base
	grep -rnE '#include "smfs/(mount|cmd)/' smfs/store
	grep -rnE '#include "(smfs|pull|runner)/cmd/' smfs/base smfs/store smfs/mount pull/*.c \
		$(ls -d runner/*/ | grep -v ^runner/cmd/)
)
[ -z "$bad" ] && exit 0
echo "$bad"
exit 1
