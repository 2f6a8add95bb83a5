# survive.sh - sourced after mount.sh: a mount with what tests/lib/survive.py reads.
#
#   survive_mount [OPTION]   snapshots cold (32 MiB), hot (8 MiB, materialised) and s01..s12
#   children                 the processes that the keeper has

survive_store() {
	python3 tests/lib/survive.py make "$T/cold" 1 32
	python3 tests/lib/survive.py make "$T/hot" 2 8
	smfs init "$S" &&
		smfs import -q --store "$S" cold "$T/cold" &&
		smfs import -q --store "$S" hot "$T/hot" || return 1
	for i in $(seq -w 12); do
		python3 tests/lib/survive.py make "$T/s$i" "1$i" 1
		smfs import -q --store "$S" "s$i" "$T/s$i" || return 1
		rm -r "$T/s$i"
	done
	smfs warm --store "$S" hot
}

survive_mount() { # the cache has room for the one file
	start_mount --cache-size 16M "$@"
}

children() {
	cat "/proc/$1/task/$1/children"
}

within() { # within COMMAND...: succeeds in the end; a minute is given, for others may be at work here
	n=600
	while [ "$n" -gt 0 ]; do
		"$@" 2>/dev/null && return 0
		n=$((n - 1))
		sleep 0.1
	done
	return 1
}
