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
check "its directory is swept by the next listing" sh -c '! smvm-runner ps | grep -q five-1'

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
