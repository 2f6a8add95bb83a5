#!/bin/sh
# Children of a running guest that rewrites its memory all the time: each goes on from one instant of it, all
# live and die apart, and nothing of one is seen in another.
. tests/lib/tap.sh
. tests/guest/tiny.sh

whole() { until_true 30 said "$1" "^whole [0-9a-f]* $nonce\$"; }
runs() { ask "$1" '?' '^pass'; }
dir_of() { smvm-runner info "$1" | jq -r .dir; }
pid_of() { smvm-runner info "$1" | jq -r .pid; }

check "a guest boots" boot origin churn 128M
check "and rewrites its memory" until_true 10 said origin '^up [0-9a-f]\{16\}$'
nonce=$(log origin | sed -n 's/^up //p')

check "it forks" sh -c 'smvm-runner fork --name kid --json origin >"$1"' sh "$T/json"
echo "# paused $(jq .pause_us "$T/json") us, running after $(jq '.children[0].timings.running_us' "$T/json") us"
check "the child finds itself in a new generation" until_true 10 said kid '^gen'
check "and all its memory of one instant" whole kid
check "the parent goes on" runs origin
check "the child answers beside it" runs kid
check "ps says whose child it is" sh -c 'smvm-runner ps | grep -q "kid .*fork of origin"'
check "uuids differ" [ "$(smvm-runner info origin | jq .uuid)" != "$(smvm-runner info kid | jq .uuid)" ]

check "five at once" sh -c 'smvm-runner fork -n 5 --name five origin >"$1" && [ $(wc -l <"$1") -eq 5 ]' sh "$T/ids"
for i in 1 2 3 4 5; do
	check "number $i is whole" whole five-$i
done
check "they are five processes" [ "$(for i in 1 2 3 4 5; do pid_of five-$i; done | sort -u | wc -l)" -eq 5 ]
check "killing one" kill -9 "$(pid_of five-1)"
check "leaves the next" runs five-2
check "and its parent" runs origin
check "its directory is swept by the next listing" until_true 10 sh -c '! smvm-runner ps | grep -q five-1'

check "a child has children" smvm-runner fork --name grandkid kid
check "whole" whole grandkid
smvm-runner stop -f origin
check "the parent is stopped: the child lives" runs kid
check "so does the grandchild" runs grandkid
check "no process keeps the stopped machine's descriptors" \
	sh -c '! ls -l /proc/"$1"/fd | grep -E "$2"' sh "$(pid_of kid)" "$(dir_of grandkid)"

check "a child is snapshotted" smvm-runner snapshot --live grandkid s
check "and restored" restore s back
check "whole" whole back
check "a restored machine forks" smvm-runner fork --name backkid back
check "whole" whole backkid

# Tiny guests have nobody to take a connection further; what can be seen here is who listens, and for how long.
smvm-runner fork -n 2 --name out -p 0:80 -p 0:/run/s --json kid >"$T/json"
ports=$(jq '.children[] | .host_port' "$T/json")
set -- $ports
check "two children with ports of their own" [ $# -eq 2 -a "$1" != "${2:-}" ]
check "the first listens" connects "$1"
check "and the second" connects "$2"
check "each tells both of its forwards" [ "$(jq '[.children[].forwards | length] == [2, 2]' "$T/json")" = true ]
check "ps tells them, too" [ "$(smvm-runner ps --json | jq --argjson p "$1" 'map(select(.host_port == $p)) | length')" -eq 1 ]
first=$(jq -r --argjson p "$1" '.children[] | select(.host_port == $p) | .name' "$T/json")
smvm-runner stop -f "$first"
check "a stopped child's port is closed" until_true 10 connects_not "$1"
check "the other's is not" connects "$2"
kill -9 "$(pid_of "$(jq -r --argjson p "$2" '.children[] | select(.host_port == $p) | .name' "$T/json")")"
check "nor is a killed one's" until_true 10 connects_not "$2"
taken=$(free_port)
smvm-runner fork --name fixed -p "$taken:80" kid >/dev/null
check "a port that was chosen" connects "$taken"
check "which is taken then: nothing is forked" says 1 "$taken" smvm-runner fork --name other -p "$taken:80" kid
check_not "and so there is no such child" smvm-runner info other
check "one for two children is refused, with the reason" says 2 'only one machine can have port 80' smvm-runner fork -n 2 -p 80:80 kid
check "as it is of two restored ones" says 2 'only one machine can have port 80' smvm-runner restore -n 2 -p 80:80 s
check "whose own ports are told" json_has 'map(.host_port) | unique | length == 2' smvm-runner restore -n 2 --name pair -p 0:80 --json s
check "what is no forward" says 2 'is no forward' smvm-runner fork -p '0:/run/a b' kid
check "whoever reads the ids is not kept waiting" timeout 60 sh -c '[ "$(smvm-runner fork --name quick -p 0:80 kid | wc -l)" -eq 1 ]'
smvm-runner stop -f fixed quick pair-1 pair-2

check "a name that is taken is refused" sh -c '! smvm-runner fork --name kid grandkid 2>"$1" && grep -q "is running already" "$1"' sh "$T/err"
check "the refused leave nothing" [ "$(smvm-runner ps -q | wc -l)" -eq "$(ls "$SMVM_RUN_DIR" | wc -l)" ]
check "of three names one is taken: the others come up, and it says so" \
	sh -c 'smvm-runner fork --name five -n 3 kid >"$1" 2>"$2"; [ $? -eq 1 ] && [ $(wc -l <"$1") -eq 1 ] && grep -q "is running already" "$2"' \
	sh "$T/ids" "$T/err"
check_not "more than there may be" smvm-runner fork -n 100000 kid
check_not "of nobody" smvm-runner fork nobody
check "all that run are whole" sh -c '! grep -l "^torn" "$SMVM_RUN_DIR"/*/console.log'
smvm-runner stop -f $(smvm-runner ps -q)
check "nothing is left" [ -z "$(ls "$SMVM_RUN_DIR")" ]
tap_done
