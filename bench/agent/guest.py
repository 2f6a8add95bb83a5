"""guest.py - a guest of smvm-runner's, run by QEMU instead (bench/bench-agent.sh).

    guest.py initrd BASE EXTRA.ko... < config.json > initrd
        The initramfs smvm-runner made for a kernel, and after it what QEMU's devices need (PCI modules) and the
        boot configuration for the image whose config.json is read (doc/agent-protocol.md).
    guest.py save STATE QEMU-ARG...
        Boot, wait for the agent and for the service, save the machine into the file STATE, end it.
    guest.py time STATE QEMU-ARG...
        Restore it from STATE and wait for an answer of the agent: prints the microseconds from QEMU's start.
    guest.py ours SNAPSHOT NAME
        The same of a snapshot of smvm-runner's, in $SMVM_RUN_DIR, where no other machine is; and the microseconds until
        the command returns, for by then the guest has its own identity.

STATE goes straight to and from the file where QEMU can (9 and later), else through cat(1).
"""
import glob
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time

CID, AGENT_PORT = 3, 1024
HELLO = struct.pack("<IHHIH", 6, 1, 0, 0x61764D53, 1)
HELLO_KIND, ERROR, EXEC, STDOUT, EXIT = 1, 2, 3, 6, 10


def cpio_read(data):
    """Name and content of each file of a newc archive, padding and further archives passed over."""
    at = 0
    while at + 110 <= len(data) and data[at:at + 6] == b"070701":
        field = [int(data[at + 6 + 8 * i:at + 14 + 8 * i], 16) for i in range(13)]
        size, name_len = field[6], field[11]
        name = data[at + 110:at + 110 + name_len - 1].decode()
        body = (at + 110 + name_len + 3) & ~3
        yield name, data[body:body + size]
        at = (body + size + 3) & ~3


def cpio(name, body, mode):
    text = name.encode() + b"\0"
    field = [0, mode, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(text), 0]
    out = b"070701" + b"".join(b"%08x" % f for f in field) + text
    out += bytes(-len(out) % 4) + body
    return out + bytes(-len(out) % 4)


def item(tag, value):
    value = value.encode() if isinstance(value, str) else value
    return struct.pack("<HI", tag, len(value)) + value


def boot_configuration(config):
    c = config["config"]
    argv = (c.get("Entrypoint") or []) + (c.get("Cmd") or [])
    out = struct.pack("<IH", 0x63766D73, 1) + item(1, "/dev/vda") + item(2, "erofs") + item(3, b"\0")
    out += b"".join(item(4, a) for a in argv) + b"".join(item(5, e) for e in c.get("Env") or [])
    out += item(6, c.get("WorkingDir") or "/") + item(7, c.get("User") or "0") + item(8, "qemu")
    return out + item(12, struct.pack("<Q", 1)) + item(13, bytes(16))


def initrd(base, modules):
    data = open(base, "rb").read()
    names = dict(cpio_read(data))["modules.list"].decode().split()
    extra = b""
    for path in modules:
        name = "modules/" + os.path.basename(path)
        if "/" + name not in names:
            extra += cpio(name, open(path, "rb").read(), 0o100644)
            names.append("/" + name)
    extra += cpio("modules.list", "".join(n + "\n" for n in names).encode(), 0o100644)
    extra += cpio("smvm.conf", boot_configuration(json.load(sys.stdin)), 0o100600)
    extra += cpio("TRAILER!!!", b"", 0)
    sys.stdout.buffer.write(data + bytes(-len(data) % 4) + extra)


def receive(s, n):
    out = b""
    while len(out) < n:
        more = s.recv(n - len(out))
        if not more:
            raise ConnectionError("the agent went away")
        out += more
    return out


def frame(s):
    length, kind, _ = struct.unpack("<IHH", receive(s, 8))
    return kind, receive(s, length)


def by_vhost():
    s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    s.settimeout(2)
    s.connect((CID, AGENT_PORT))
    return s


def by_runner():
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(2)
    for path in glob.glob(os.environ["SMVM_RUN_DIR"] + "/*/vsock.sock"):
        s.connect(path)
        s.sendall(b"CONNECT %d\n" % AGENT_PORT)
        answer = b""
        while not answer.endswith(b"\n"):
            answer += receive(s, 1)
        if answer.startswith(b"OK "):
            return s
    raise ConnectionError("no machine yet")


def agent(seconds, process, connect=by_vhost):
    """A connection to the agent, which has answered."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll():
            sys.exit(f"guest.py: the monitor ended, status {process.returncode}")
        try:
            s = connect()
            s.sendall(HELLO)
            if frame(s)[0] == HELLO_KIND:
                return s
        except OSError:
            pass
        time.sleep(0.001)
    sys.exit(f"guest.py: no answer of the agent in {seconds} s")


def qmp(path, *commands):
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    f = s.makefile("rw")
    f.readline()
    answers = []
    for command in ({"execute": "qmp_capabilities"},) + commands:
        f.write(json.dumps(command) + "\n")
        f.flush()
        while True:
            said = json.loads(f.readline())
            if "error" in said:
                sys.exit(f"guest.py: QEMU: {said['error']['desc']}")
            if "return" in said:
                answers.append(said["return"])
                break
    return answers[1:]


def run(qemu, args):
    """What a program in the guest prints."""
    s = agent(60, qemu)
    s.settimeout(60)
    argv = b"".join(item(1, a) for a in args)
    s.sendall(struct.pack("<IHH", len(argv), EXEC, 0) + argv)
    out = b""
    while True:
        kind, data = frame(s)
        if kind == STDOUT:
            out += data
        if kind == EXIT:
            return out
        if kind == ERROR:
            sys.exit(f"guest.py: the agent: {data!r}")


def through(args, out):
    """Where QEMU is to put its state, or to get it from."""
    version = subprocess.run([args[0], "--version"], stdout=subprocess.PIPE, check=True).stdout.split()[3]
    return "file:" if int(version.split(b".")[0]) >= 9 else "exec:cat >" if out else "exec:cat "


def start(args):
    return subprocess.Popen(args, stdin=subprocess.DEVNULL)


def end(qemu):
    qemu.send_signal(signal.SIGKILL)
    qemu.wait()


def save(state, args):
    monitor = state + ".qmp"
    qemu = start(args + ["-qmp", f"unix:{monitor},server=on,wait=off"])
    agent(120, qemu).close()
    deadline = time.monotonic() + 120
    while b"nonce" not in run(qemu, ["busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/"]):
        if time.monotonic() > deadline:
            sys.exit("guest.py: the service does not answer")
        time.sleep(0.2)
    qmp(monitor, {"execute": "migrate-set-parameters", "arguments": {"max-bandwidth": 1 << 40}},
        {"execute": "migrate", "arguments": {"uri": through(args, True) + state}})
    while True:
        status = qmp(monitor, {"execute": "query-migrate"})[0].get("status")
        if status in ("completed", "failed"):
            break
        time.sleep(0.1)
    end(qemu)
    if status != "completed":
        sys.exit("guest.py: QEMU could not save the guest")
    print(os.path.getsize(state))


def time_one(state, args):
    uri = through(args, False) + state
    t = time.monotonic_ns()
    qemu = start(args + ["-incoming", uri])
    agent(120, qemu).close()
    t = time.monotonic_ns() - t
    end(qemu)
    print(t // 1000)


def time_ours(snapshot, name):
    t = time.monotonic_ns()
    command = start(["smvm-runner", "restore", "--json", "--name", name, snapshot])
    agent(120, command, by_runner).close()
    answered = time.monotonic_ns() - t
    if command.wait() != 0:
        sys.exit("guest.py: the restore failed")
    print(answered // 1000, (time.monotonic_ns() - t) // 1000, file=sys.stderr)


if __name__ == "__main__":
    what, rest = sys.argv[1], sys.argv[2:]
    if what == "initrd":
        initrd(rest[0], rest[1:])
    elif what == "save":
        save(rest[0], rest[1:])
    elif what == "time":
        time_one(rest[0], rest[1:])
    elif what == "ours":
        time_ours(*rest)
    else:
        sys.exit(__doc__)
