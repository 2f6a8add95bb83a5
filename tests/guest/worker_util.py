"""What the cases of test_worker.sh have in common."""
import os
import re
import sys

from cases import cli, until
from supervisor import Supervisor

BUILD = sys.argv[1]
MOUNT = os.environ["SMFS_MOUNT"]


def worker(*args, hello=False, ready=True, **kw):
    s = Supervisor(["smvm-runner", "worker", *args], **kw)
    if ready and s.sock:
        s.expect("READY")
    if hello:
        s.hello()
    return s


def log(vm):
    return cli("console", "-l", vm).stdout


def ps():
    return cli("ps", "-q").stdout.split()


def generation(vm):
    """(number, counter, nonce), as a counter guest says when it finds itself restored."""
    m = until(lambda: re.search(r"^gen ([0-9a-f]{16}) ([0-9a-f]{16}) ([0-9a-f]{16})\r?\n", log(vm), re.M))
    return int(m[1], 16), int(m[2], 16), m[3]
