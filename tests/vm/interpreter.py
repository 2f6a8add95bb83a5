"""An interpreter that is kept warm: it runs what it is sent in one namespace of its own, for whoever asks by vsock.

A connection to port 5000 each: a line with the number of bytes, the code, and back comes what that has printed, or its
traceback. One after the other.
"""
import contextlib
import io
import socket
import traceback

PORT = 5000
names = {"__name__": "__main__"}
server = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
server.bind((socket.VMADDR_CID_ANY, PORT))
server.listen()
open("/run/interpreter", "w").close()
while True:
    peer, _ = server.accept()
    out = io.StringIO()
    try:
        with peer, peer.makefile("rb") as f:
            code = f.read(int(f.readline()))
            with contextlib.redirect_stdout(out):
                try:
                    exec(code, names)
                except Exception:
                    traceback.print_exc(file=out)
            peer.sendall(out.getvalue().encode())
    except (OSError, ValueError):
        pass  # a peer that went away, or a reset of the machine
