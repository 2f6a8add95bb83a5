#!/bin/sh
# The house rules a program can check: layering, file size, man pages, help and version of each command.
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/tap.sh

small_files() {
	big=$(find smfs runner pull tests bench -name '*.[chS]' -o -name '*.sh' | xargs wc -l |
		awk '$2 != "total" && $1 > 700 {print "# " $1 " lines: " $2}')
	[ -z "$big" ] && return 0
	echo "$big"
	return 1
}

man_clean() {
	w=$(man --warnings -E UTF-8 -l -Tutf8 "$1" 2>&1 >/dev/null)
	[ -z "$w" ] && return 0
	echo "$w"
	return 1
}

speaks() { # the command prints usage on --help, its version on --version, and refuses nonsense with 2
	"$1" --help | grep -qi '^usage' && "$1" --version | grep -q '[0-9]\.[0-9]' || return 1
	"$1" --no-such-option >/dev/null 2>&1
	[ $? -eq 2 ]
}

# told_in_man PROGRAM: each option that a page of --help describes is in the manual page by its long name, and each
# that the manual page has is one of them.
told_in_man() {
	"$B/$1" --help >"$T/help"
	for s in $(sed -nE 's/^  ([a-z]+) .*/\1/p' "$T/help"); do
		"$B/$1" "$s" --help
	done >>"$T/help"
	sed -nE 's/^ +(-[a-zA-Z], )?--([a-z][a-z-]+).*/\2/p' "$T/help" | sort -u >"$T/options"
	bad=0
	while read -r long; do
		grep -qE -- "^\.(Op|It|Fl|Cm|Pq|Ql)?.*(Fl|,) -$long( |\$)|^\.Fl -$long\$" "doc/$1.1" && continue
		echo "# --$long is not in doc/$1.1"
		bad=1
	done <"$T/options"
	grep -oE '(Fl|,) -[a-z][a-z-]+' "doc/$1.1" | sed 's/.* -/--/' | sort -u | while read -r o; do
		grep -q -- "$o" "$T/help" || { echo "# doc/$1.1 has $o, --help has not"; exit 1; }
	done || bad=1
	return $bad
}

sources_only() { # git tracks the top-level folders README names, and nothing that was built
	git ls-files | grep -vE '^(smfs|runner|pull|tests|bench|doc|packaging|\.ci)/|^[^/]+$' && return 1
	git ls-files -z | xargs -0 grep -IL '' -- | grep -v '^tests/fuzz/corpus/' && return 1
	return 0
}

check "dependencies point one way" sh tests/lib/layering.sh
check "no file is longer than 700 lines" small_files
if git rev-parse --git-dir >/dev/null 2>&1; then
	check "git tracks sources and nothing built" sources_only
else
	skip "git tracks sources and nothing built" "not in a git checkout"
fi
for c in smfs smvm-runner smvm-pull; do
	if command -v man >/dev/null; then
		check "doc/$c.1 formats without a warning" man_clean "doc/$c.1"
	else
		skip "doc/$c.1 formats without a warning" "no man command here"
	fi
	check "doc/$c.1 has the options that --help has, and no others" told_in_man $c
	check "$c answers --help and --version, and refuses nonsense" speaks "$B/$c"
done
check "the agent is static" sh -c '! readelf -l "$1" | grep -q INTERP' sh "$B/smvm-init"
tap_done
