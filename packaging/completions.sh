#!/bin/sh
# Shell completions of a command, made from what its --help says, so that they cannot say anything else.
#
#   completions.sh bash|zsh PROGRAM        on standard output; PROGRAM is the path of the built command
#
# Options are completed everywhere, names of machines, snapshots and images where the usage line of a subcommand
# takes them, files elsewhere.
set -eu
shell=$1
program=$2
name=$(basename "$program")

subcommands() { "$program" --help | sed -nE 's/^  ([a-z]+) .*/\1/p'; }
options() { # options [SUBCOMMAND]: each, one a line: what begins a line, or stands in the usage line
	{
		"$program" "$@" --help | sed -nE '1p; s/^ +(-[a-zA-Z]),? (--)/\1 \2/p; s/^ +(-[a-zA-Z-]+).*/\1/p; s/^ +(--[a-z-]+, --[a-z-]+).*/\1/p' |
			sed -E 's/^(-[a-zA-Z] --[a-z-]+).*/\1/' | grep -oE -- '(^|[][ ,])--?[a-zA-Z][a-z-]*' | tr -d '][ ,'
		# What not every page lists.
		echo --help
	} | grep -v '^$'
}
takes() { # takes SUBCOMMAND: vm, snapshot, image, name or file
	usage=$("$program" "$1" --help | sed -n '1p')
	case "$name:$usage" in
	smvm-runner:*\ VM*) echo vm ;;
	smvm-runner:*SNAPSHOT*) echo snapshot ;;
	smvm-runner:*IMAGE*) echo image ;;
	smfs:*import*) echo file ;;
	smfs:*NAME* | smfs:*\ A\ B*) echo name ;;
	*) echo file ;;
	esac
}
verbs() { # verbs SUBCOMMAND: words that may come first, a|b|c in its usage lines
	"$program" "$1" --help | sed -n '/^$/q; /^Usage:/,$p' | sed -n '1,2p' | grep -oE '\b[a-z]+(\|[a-z]+)+' | tr '|' '\n' || :
}
lister() { # the command that lists what a subcommand takes; nothing: files
	case $1 in
	vm) echo "smvm-runner ps 2>/dev/null | awk 'NR > 1 {print \$2}'" ;;
	snapshot) echo "smfs ls --quiet snapshots 2>/dev/null | sed 's|^snapshots/||'" ;;
	image) echo "smfs ls --quiet images 2>/dev/null | sed 's|^images/||'" ;;
	name) echo "smfs ls --quiet 2>/dev/null" ;;
	esac
}
words() { sort -u | tr '\n' ' ' | sed 's/ $//'; }

subs=$(subcommands | words)
fn=_$(echo "$name" | tr - _)
case $shell in
bash)
	echo "# $name: completion for bash, made by packaging/completions.sh."
	echo "$fn() {"
	# References of images have colons in them, at which bash splits words.
	echo '	local i=$COMP_CWORD cur=${COMP_WORDS[COMP_CWORD]} opts= lister= verbs= name'
	echo '	while ((i > 1)) && [[ $cur == :* || ${COMP_WORDS[i - 1]} == *: ]]; do'
	echo '		cur=${COMP_WORDS[--i]}$cur'
	echo '	done'
	if [ -n "$subs" ]; then
		echo '	if [ "$COMP_CWORD" -eq 1 ]; then'
		echo "		COMPREPLY=(\$(compgen -W \"$subs --help --version\" -- \"\$cur\"))"
		echo '		return'
		echo '	fi'
		echo '	case ${COMP_WORDS[1]} in'
		for s in $subs; do
			echo "	$s)"
			echo "		opts=\"$(options "$s" | words)\""
			t=$(takes "$s")
			[ "$t" = file ] || echo "		lister=${fn}_$t"
			v=$(verbs "$s" | words)
			[ -z "$v" ] || echo "		[[ \$COMP_CWORD -gt 2 ]] || verbs=\"$v\""
			echo '		;;'
		done
		echo '	esac'
	else
		echo "	opts=\"$(options | words)\""
	fi
	cat <<'END'
	COMPREPLY=()
	if [[ $cur == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$opts" -- "$cur")
	elif [ -n "$verbs" ]; then
		mapfile -t COMPREPLY < <(compgen -W "$verbs" -- "$cur")
	elif [ -n "$lister" ]; then
		while read -r name; do
			[[ $name != "$cur"* ]] || COMPREPLY+=("$name")
		done < <($lister)
	else
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
	fi
	# bash puts back what is before the last colon by itself.
	[[ $cur != *:* || $COMP_WORDBREAKS != *:* ]] || COMPREPLY=("${COMPREPLY[@]#"${cur%"${cur##*:}"}"}")
}
END
	for l in vm snapshot image name; do
		c=$(lister $l)
		echo "${fn}_$l() { $c; }"
	done
	echo "complete -o filenames -F $fn $name"
	;;
zsh)
	echo "#compdef $name"
	echo "# $name: completion for zsh, made by packaging/completions.sh."
	if [ -n "$subs" ]; then
		echo 'if (( CURRENT == 2 )); then'
		echo "	compadd -- $subs --help --version"
		echo '	return'
		echo 'fi'
		echo 'case $words[2] in'
		for s in $subs; do
			echo "$s)"
			echo "	if [[ \$PREFIX == -* ]]; then compadd -- $(options "$s" | words)"
			v=$(verbs "$s" | words)
			[ -z "$v" ] || echo "	elif (( CURRENT == 3 )); then compadd -- $v"
			l=$(lister "$(takes "$s")")
			if [ -n "$l" ]; then
				echo "	else compadd -- \${(f)\"\$($l)\"}; fi"
			else
				echo '	else _files; fi'
			fi
			echo '	;;'
		done
		echo 'esac'
	else
		echo "if [[ \$PREFIX == -* ]]; then compadd -- $(options | words); else _files; fi"
	fi
	;;
*)
	echo "completions.sh: no shell '$shell': it is bash or zsh" >&2
	exit 2
	;;
esac
