#!/bin/sh
# What the runner's commands make of a guest's agent that is old, of a version to come, or hostile: agents written from
# doc/agent-protocol.md (tests/lib/fakeagent.py) in place of a real one, behind bare guests, which have none.
. tests/lib/tap.sh
. tests/guest/tiny.sh

for i in 1 2 3 4 5 6 7; do
	boot vm$i counter 64M
done
export T
python3 tests/guest/agent.py
exit $?
