#!/usr/bin/python3
"""The host's side of runtimes.py, over a VM's vsock socket.

    runtimes_ask.py report SOCKET GENERATION [SECONDS]    print what it reports, one line of JSON
    runtimes_ask.py hold SOCKET                           print "held", then keep the connection until killed
"""
import socket
import sys
import time


def dial(path, end):
    while True:
        s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        s.settimeout(max(end - time.monotonic(), 0.1))
        s.connect(path)
        f = s.makefile("rw")
        f.write("CONNECT 5000\n")
        f.flush()
        if f.readline().startswith("OK "):
            return f
        if time.monotonic() > end:
            sys.exit("nobody listens in the guest")
        time.sleep(0.2)


def main():
    what, path = sys.argv[1:3]
    end = time.monotonic() + (float(sys.argv[4]) if len(sys.argv) > 4 else 90)
    f = dial(path, end)
    f.write("hold\n" if what == "hold" else f"report {sys.argv[3]}\n")
    f.flush()
    line = f.readline()
    if not line:
        sys.exit("the guest hung up")
    print(line, end="", flush=True)
    if what == "hold":
        while True:
            time.sleep(3600)


main()
