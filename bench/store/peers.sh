# peers.sh - sourced by bench-store.sh: the contenders, each called as its users would.
#
#   X_new              an empty repository $T/X
#   X_put NAME DIR     DIR into it as NAME
#
# for X in $contenders; X_name is the name and version for the output.
contenders='smfs casync restic borg'

export BORG_BASE_DIR="$T/borg-home" BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes
export RESTIC_PASSWORD=bench RESTIC_CACHE_DIR="$T/restic-cache" RESTIC_PROGRESS_FPS=0.1
# shellcheck disable=SC2034
{
	casync_name=casync-$(dpkg-query -W -f '${Version}' casync | cut -d - -f 1)
	borg_name=$(borg --version | tr ' ' -)
	restic_name=restic-$(restic version | awk '{ print $2; exit }')
}

smfs_new() { rm -rf "$T/smfs" && smfs init -q "$T/smfs"; }
smfs_put() { smfs import -q --store "$T/smfs" "$1" "$2"; }
casync_new() { rm -rf "$T/casync" && mkdir "$T/casync"; }
casync_put() { casync make --store="$T/casync/default.castr" "$T/casync/$1.caidx" "$2"; }
borg_new() { rm -rf "$T/borg" && borg init --encryption none "$T/borg"; }
borg_put() { (cd "$2" && borg create --compression zstd,1 "$T/borg::$1" .); }
restic_new() { rm -rf "$T/restic" "$RESTIC_CACHE_DIR" && restic init -q -r "$T/restic"; }
restic_put() { (cd "$2" && restic backup -q --tag "$1" -r "$T/restic" .); }

quietly() { "$@" >"$T/log" 2>&1 || { cat "$T/log" >&2; return 1; }; }

# put CONTENDER NAME DIR: microseconds until it is durable, the source in the page cache.
put() {
	in_cache "$3"/*
	sync
	put_from=$(now_us)
	quietly "$1_put" "$2" "$3" || return 1
	sync -f "$T/$1"
	since_us "$put_from"
}
disk_bytes() { du -s --block-size=1 "$T/$1" | cut -f 1; }
