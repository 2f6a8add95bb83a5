#!/usr/bin/python3
"""Write the layers of the torture image, 0.tar 1.tar ..., into a folder: every rule of layer application.

Each entry's name tells what must become of it in the merged tree: keep-*, gone-*, new-*.
"""
import io
import os
import subprocess
import sys
import tarfile
import tempfile

T0 = 1700000000


class Layer:
    def __init__(self, path):
        self.tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.tar.close()

    def put(self, name, data=None, kind=tarfile.REGTYPE, mode=0o644, uid=0, gid=0, mtime=T0, link="",
            dev=(0, 0), xattrs=None, pax=None):
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.uid, info.gid, info.mtime, info.linkname = kind, mode, uid, gid, mtime, link
        info.devmajor, info.devminor = dev
        info.size = len(data) if data is not None else 0
        info.pax_headers = dict(pax or {})
        for key, value in (xattrs or {}).items():
            info.pax_headers["SCHILY.xattr." + key] = value.decode("utf-8", "surrogateescape")
        self.tar.addfile(info, io.BytesIO(data) if data is not None else None)

    def dir(self, name, **kw):
        kw.setdefault("mode", 0o755)
        self.put(name, kind=tarfile.DIRTYPE, **kw)

    def hard(self, name, target):
        self.put(name, kind=tarfile.LNKTYPE, link=target)

    def sym(self, name, target):
        self.put(name, kind=tarfile.SYMTYPE, link=target, mode=0o777)


def pattern(n, seed):
    block = bytes((i * 7 + seed) & 0xFF for i in range(251))
    return (block * (n // 251 + 1))[:n]


def lower(l):
    l.dir("./", mode=0o751, mtime=T0 + 1)
    l.dir("etc")
    l.put("etc/keep-plain", b"plain\n")
    l.put("etc/gone-by-whiteout", b"x")
    l.put("etc/new-content", b"old")
    l.put("etc/keep-empty", b"")
    l.put("etc/keep-64k", pattern(65536, 1))
    l.put("etc/keep-300k", pattern(300001, 2))
    l.put("etc/keep-zeros", bytes(200000))
    l.put("etc/keep-setuid", b"#!", mode=0o4755)
    l.put("etc/keep-setgid-sticky", b"#!", mode=0o3775, uid=7, gid=8)
    l.put("etc/keep-no-permission", b"s", mode=0)
    l.put("etc/keep-big-ids", b"i", uid=3000000000, gid=4000000001)
    l.put("etc/keep-before-1970", b"t", mtime=-86400)
    l.put("etc/keep-nanoseconds", b"t", pax={"mtime": "1600000000.123456789"})
    l.put("etc/keep-far-future", b"t", mtime=5000000000)
    l.put("etc/keep-xattrs", b"x", xattrs={
        "user.one": b"1", "user.empty-ish": b"v", "trusted.two": b"two",
        "security.capability": b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"})
    l.dir("etc/keep-dir-xattrs", xattrs={"user.dir": b"d"})
    l.put("etc/" + "n" * 254, b"longest name mkfs.erofs takes")
    l.put("etc/\u00fcn\u00efc\u00f6de \u2603", b"utf-8")
    deep = ""
    for i in range(40):
        deep += "deep-%02d/" % i
        l.dir(deep)
    l.put(deep + "keep-bottom", b"bottom")
    l.sym("etc/keep-symlink", "keep-plain")
    l.sym("etc/keep-dangling", "/no/such/" + "y" * 200)
    l.sym("etc/keep-escape", "../../../../../etc/passwd")
    l.put("etc/keep-fifo", kind=tarfile.FIFOTYPE, mode=0o600)
    l.put("etc/keep-null", kind=tarfile.CHRTYPE, dev=(1, 3), mode=0o666)
    l.put("etc/keep-disk", kind=tarfile.BLKTYPE, dev=(259, 70000), mode=0o660)
    l.put("etc/keep-link-a", b"linked")
    l.hard("etc/keep-link-b", "etc/keep-link-a")
    l.hard("keep-link-c", "etc/keep-link-a")
    l.put("etc/duplicate", b"first")
    l.put("etc/duplicate", b"last wins", mode=0o600)
    l.dir("opaque")
    l.dir("opaque/gone-dir")
    l.put("opaque/gone-dir/gone-file", b"")
    l.put("opaque/gone", b"")
    l.dir("opaque-late")
    l.put("opaque-late/gone", b"")
    l.dir("tree")
    l.dir("tree/gone-subtree")
    l.put("tree/gone-subtree/gone", b"")
    l.put("tree/keep", b"")
    l.dir("dir-to-file")
    l.put("dir-to-file/gone", b"")
    l.put("file-to-dir", b"")
    l.sym("symlink-to-dir", "etc")
    l.dir("dir-to-symlink")
    l.put("dir-to-symlink/gone", b"")
    l.dir("usr")
    l.dir("usr/lib")
    l.put("usr/lib/keep", b"")
    l.put("usr/lib/gone-through-link", b"")
    l.sym("lib", "usr/lib")
    l.dir("attrs", mode=0o700, uid=1, mtime=T0 + 2)
    l.dir("attrs-replaced", mode=0o700, uid=1, xattrs={"user.gone": b"1"})
    l.dir("whiteout-then-again")
    l.put("whiteout-then-again/gone", b"")
    l.put("lower-linked", b"shared inode")
    l.put("lower-linked-replaced", b"old inode")
    l.hard("keep-old-inode", "lower-linked-replaced")


def upper(l):
    l.put("etc/.wh.gone-by-whiteout", b"")
    l.put("etc/new-content", b"new", mode=0o640, mtime=T0 + 3)
    l.dir("opaque", mode=0o711)
    l.put("opaque/.wh..wh..opq", b"")
    l.put("opaque/new", b"n")
    # The marker after the entries it must not hide.
    l.dir("opaque-late")
    l.put("opaque-late/new", b"n")
    l.put("opaque-late/.wh..wh..opq", b"")
    l.put("tree/.wh.gone-subtree", b"")
    l.put("dir-to-file", b"now a file")
    l.dir("file-to-dir")
    l.put("file-to-dir/new", b"")
    l.dir("symlink-to-dir")
    l.put("symlink-to-dir/new", b"")
    l.sym("dir-to-symlink", "etc")
    # No entry for lib: the path runs through the lower layer's symlink.
    l.put("lib/new-through-link", b"")
    l.put("lib/.wh.gone-through-link", b"")
    # No entry for attrs: its attributes stay.
    l.put("attrs/new", b"")
    l.dir("attrs-replaced", mode=0o755, uid=2, mtime=T0 + 4)
    # A whiteout after the entry of the same name hides only the lower one.
    l.dir("whiteout-then-again", mode=0o750)
    l.put("whiteout-then-again/new", b"")
    l.put(".wh.whiteout-then-again", b"")
    l.put("etc/.wh.never-there", b"")
    l.hard("upper-link", "lower-linked")
    l.put("lower-linked-replaced", b"new inode")
    l.put("./dot/../etc/./new-normalised", b"")
    l.put("/new-absolute", b"")


def top(l):
    l.put("opaque/.wh.new", b"")
    l.put("opaque/newer", b"")
    l.put("etc/keep-link-b", b"link broken by replacement")
    l.hard("etc/upper-link-2", "upper-link")
    l.dir("whiteout-then-again", mode=0o710)


def sparse(path):
    """A sparse entry, which tarfile cannot write."""
    with tempfile.TemporaryDirectory() as d:
        with open(os.path.join(d, "sparse"), "wb") as f:
            f.seek(1 << 20)
            f.write(b"data after a hole")
            f.seek(3 << 20)
            f.write(pattern(70000, 3))
            f.truncate(5 << 20)
        os.utime(os.path.join(d, "sparse"), (T0, T0))
        subprocess.run(["tar", "-C", d, "-S", "--owner=0", "--group=0", "--numeric-owner", "--format=pax",
                        "--pax-option=delete=atime,delete=ctime", "-cf", path, "sparse"], check=True)


def main():
    out = sys.argv[1]
    for number, fill in enumerate((lower, upper, top)):
        with Layer(os.path.join(out, "%d.tar" % number)) as layer:
            fill(layer)
    sparse(os.path.join(out, "3.tar"))


if __name__ == "__main__":
    main()
