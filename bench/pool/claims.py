"""claims.py SNAPSHOT MACHINES CLIENTS CLAIMS NONCE: so many claims over a pool by so many clients, each giving back at once
what it has, when its guest has said the nonce of the snapshot.

Prints the microseconds from asking to having of each claim. Status 1 unless all were served, none had a machine that
another had, and every machine that was given had been reset since.
"""
import re
import select
import sys
import time

sys.path.insert(0, "tests/lib")
from cases import same, until  # noqa: E402
from poolclient import Client, Pool  # noqa: E402

snapshot, machines, clients, claims, nonce = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5]
spoken = re.compile(r"^gen .*%s\r?$" % nonce, re.M)


def speaks(directory):
    with open(directory + "/console.log", errors="replace") as f:
        return spoken.search(f.read())


class Asker(Client):
    """A client that asks since .began, or has .claimed or gives it back."""
    def claim(self):
        self.claimed = None
        self.began = time.perf_counter_ns()
        self.send("CLAIM deadline_ms=60000")

    def give_back(self):
        self.send("RELEASE claim=" + self.claimed)


with Pool("--min", str(machines), "--max", str(machines), snapshot=snapshot) as p:
    until(lambda: p.status()["warm"] == machines, 60)
    askers = [Asker() for _ in range(clients)]
    by_fd = {a.sock.fileno(): a for a in askers}
    poll = select.poll()
    for fd in by_fd:
        poll.register(fd, select.POLLIN)
    held, numbers, took, asked, answered = {}, set(), [], 0, 0
    for a in askers[:claims]:
        a.claim()
        asked += 1
    while answered < claims:
        # Whose guest has spoken gives it back.
        for vm in [vm for vm, a in held.items() if speaks(a.directory)]:
            held.pop(vm).give_back()
        ready = poll.poll(1 if held else 60000)
        now = time.perf_counter_ns()
        assert ready or held, "no answer in a minute"
        for fd, _ in ready:
            a = by_fd[fd]
            got = a.line()
            if a.claimed:
                same(got.text, "RELEASED claim=" + a.claimed)
                answered += 1
                if asked < claims:
                    a.claim()
                    asked += 1
                continue
            assert got.word == "CLAIMED", got
            took.append((now - a.began) // 1000)
            vm, a.claimed, a.directory = got.keys["vm"], got.keys["claim"], got.keys["dir"]
            assert vm not in held, "%s is given to two" % vm
            assert a.claimed not in numbers, "claim %s is there twice" % a.claimed
            numbers.add(a.claimed)
            held[vm] = a
    until(lambda: p.status()["warm"] == machines, 60)
    s = p.status()
    same((s["claims"], s["released"], s["lost"], s["died"], s["timed_out"], s["refused"]), (claims, claims, 0, 0, 0, 0))
    same(sum(m["restores"] for m in s["machines"]), machines + claims)
print("\n".join(map(str, took)))
