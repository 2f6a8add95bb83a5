#!/bin/sh
# What is installed: complete, removable, completions that say what --help says, a unit systemd takes.
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/tap.sh
unset MAKEFLAGS MAKELEVEL
P=$T/usr
make -s BUILD="$B" PREFIX="$P" install >"$T/log" 2>&1 || cat "$T/log"

completed() { # completed COMMAND WORD...: what bash offers for the last word, one a line
	bash -c '. "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); "_${1//-/_}"; printf "%s\n" "${COMPREPLY[@]}"' \
		bash "$P/share/bash-completion/completions/$1" "$@"
}
offers() { # offers WORD COMMAND WORD...
	w=$1
	shift
	completed "$@" | grep -qx -- "$w"
}
# Every long option that a page of --help describes at the beginning of a line is offered, and the command knows
# every one that is offered: it does not say "unrecognized option".
options_agree() { # options_agree PROGRAM [SUBCOMMAND]
	"$B/$1" ${2:+"$2"} --help | sed -nE 's/^ +(-[a-zA-Z], )?(--[a-z][a-z-]+).*/\2/p' | sort -u >"$T/told"
	bash -c '. "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); "_${1//-/_}"; printf "%s\n" "${COMPREPLY[@]}"' \
		bash "$P/share/bash-completion/completions/$1" "$@" -- | sort -u >"$T/offered"
	lost=$(comm -23 "$T/told" "$T/offered")
	[ -z "$lost" ] || { echo "# $*: not offered: $lost"; return 1; }
	while read -r o; do
		case $o in
		--help | --version) continue ;;
		--*) "$B/$1" ${2:+"$2"} "$o=" --no-such-option 2>&1 </dev/null | grep -E "(unrecognized|unknown|invalid) option.*'?$o(=|'|$)" &&
			{ echo "# $*: no option $o"; return 1; } ;;
		esac
	done <"$T/offered"
	return 0
}
all_agree() {
	for s in $("$B/$1" --help | sed -nE 's/^  ([a-z]+) .*/\1/p'); do
		offers "$s" "$1" "" || { echo "# $1: $s is not offered"; return 1; }
		options_agree "$1" "$s" || return 1
	done
}

for c in smfs smvm-runner; do
	check "$c's completion offers each command and each of its options, and no others" all_agree $c
done
check "smvm-pull's offers its options" options_agree smvm-pull
check "options begin as what is typed" sh -c '[ "$(bash -c ". $1; COMP_WORDS=(smfs mount --wa); COMP_CWORD=2; _smfs; echo \${COMPREPLY[@]}")" = --watchdog ]' \
	sh "$P/share/bash-completion/completions/smfs"
mkdir "$T/stub"
cat >"$T/stub/smfs" <<'END'
#!/bin/sh
case $* in
*images*) printf 'images/localhost:5000/app:%s\n' 1 2 10 ;;
*) printf 'snapshots/%s\n' warm cold ;;
esac
END
chmod +x "$T/stub/smfs"
named() { (PATH=$T/stub:$PATH && [ "$(completed smvm-runner restore w)" = warm ]); }
check "snapshots are completed by name" named
pools() { (PATH=$T/stub:$PATH && [ "$(completed smvm-runner pool "" | sort | tr '\n' ' ')" = "claim release status " ] &&
	[ "$(completed smvm-runner pool --snapshot w)" = warm ] && [ "$(completed smvm-runner pool s)" = status ]); }
check "a pool's requests, too, and the snapshot of one that is started" pools
# As readline has it, words end at colons; what is before the last one stands there already.
tagged() { (PATH=$T/stub:$PATH && [ "$(completed smvm-runner run localhost : 5000/app : 1 | tr '\n' ' ')" = '1 10 ' ]); }
check "images by reference, with port and tag" tagged
mkdir "$T/files" && touch "$T/files/a b" "$T/files/a\$(c)"
files() { (cd "$T/files" && completed smfs import a | sort | tr '\n' '|'); }
check "files are, whatever their names" [ "$(files)" = "a b|a\$(c)|" ]
check "and how the shell breaks words is left alone" sh -c '[ "$(bash -c "COMP_WORDBREAKS=: ; . $1; echo \$COMP_WORDBREAKS")" = : ]' \
	sh "$P/share/bash-completion/completions/smvm-runner"
if command -v zsh >/dev/null; then
	for f in "$P"/share/zsh/site-functions/_*; do
		check "zsh takes ${f##*/}" zsh -n "$f"
	done
else
	skip "zsh takes the completions" "no zsh here"
fi

version=$(sed -n 's/^VERSION *:= *//p' Makefile)
for c in smfs smvm-runner smvm-pull; do
	check "$c's version is the Makefile's" sh -c '"$1" --version | grep -qF "$2"' sh "$P/bin/$c" "$version"
done
PKG_CONFIG_PATH=$P/lib/pkgconfig
export PKG_CONFIG_PATH
for l in smfs smvm; do
	check "so is lib$l's, and it is found where it was installed" \
		sh -c '[ "$(pkg-config --modversion $1)" = "$2" ] && pkg-config --libs $1 | grep -qF -- "-L$3/lib"' sh $l "$version" "$P"
done

if command -v systemd-analyze >/dev/null; then
	for u in "$P"/lib/systemd/system/*.service; do
		check "systemd takes ${u##*/} without a word" sh -c 'w=$(systemd-analyze verify --man=no "$1" 2>&1); echo "$w"; [ -z "$w" ]' sh "$u"
		# Out of 100; a unit without any sandboxing has 96. A mount has to be in the host's mount namespace.
		check "${u##*/} is confined as far as its work allows" status 0 systemd-analyze security --offline=true --threshold=50 --no-pager "$u"
	done
	ports=$P/lib/systemd/system/smvm-pool@ports.service
	mkdir "$ports.d" && cp "$P/share/doc/smvm-runner/examples/smvm-pool-publish.conf" "$ports.d/publish.conf"
	check "and the drop-in for a pool's ports" sh -c 'w=$(systemd-analyze verify --man=no "$1" 2>&1); echo "$w"; [ -z "$w" ]' sh "$ports"
	mkdir "$T/off" && cp "$P/lib/systemd/system/smvm-pool@.service" "$T/off/smvm-pool@ports.service" && cp -r "$ports.d" "$T/off/"
	exposed() { systemd-analyze security --offline=true --no-pager "$1" | grep -E "^✗.*($2)"; }
	check "which gives it a network" exposed "$T/off/smvm-pool@ports.service" PrivateNetwork=
	check "that it has not without" sh -c '! systemd-analyze security --offline=true --no-pager "$1" | grep -E "^✗.*PrivateNetwork="' sh "$P/lib/systemd/system/smvm-pool@.service"
else
	skip "systemd takes the units" "no systemd-analyze here"
fi
# The unit's contract: started in the foreground, it says when the mount answers.
if [ -c /dev/fuse ] && [ "$(id -u)" = 0 ]; then
	cat >"$T/notify.py" <<-'END'
		import os, signal, socket, subprocess, sys
		path, command = sys.argv[1], sys.argv[2:]
		s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
		s.bind(path)
		s.settimeout(120)
		p = subprocess.Popen(command, env=dict(os.environ, NOTIFY_SOCKET=path))
		said = s.recv(100)
		ok = said == b"READY=1" and os.path.exists(command[-1] + "/.smfs/version")
		p.send_signal(signal.SIGTERM)
		sys.exit(0 if p.wait(120) == 0 and ok else 1)
	END
	mkdir "$T/mnt"
	at_exit 'smfs unmount -q "$T/mnt" 2>/dev/null'
	check "in the foreground a mount tells the service manager when it answers, and SIGTERM ends it" \
		python3 "$T/notify.py" "$T/socket" "$B/smfs" mount --foreground "$T/store" "$T/mnt"
else
	skip "in the foreground a mount tells the service manager when it answers" "needs /dev/fuse and root"
fi

mkdir -p "$T/dest/usr/share"
touch "$T/dest/usr/share/of-others"
make -s BUILD="$B" PREFIX=/usr DESTDIR="$T/dest" install >"$T/log" 2>&1 || cat "$T/log"
check "with DESTDIR and PREFIX=/usr, configuration is in /etc" [ -f "$T/dest/etc/default/smfs" ]
check "and the units name /usr/bin" sh -c 'grep -q "^ExecStart=/usr/bin/smfs " "$1/smfs.service" && grep -q "^ExecStart=/usr/bin/smvm-runner pool " "$1/smvm-pool@.service"' \
	sh "$T/dest/usr/lib/systemd/system"
make -s BUILD="$B" PREFIX=/usr DESTDIR="$T/dest" uninstall >"$T/log" 2>&1 || cat "$T/log"
check "uninstall removes all of it, and nothing of others" \
	sh -c '[ "$(cd "$1" && find . ! -type d)" = ./usr/share/of-others ]' sh "$T/dest"
tap_done
