#!/usr/bin/python3
"""treecmp.py A B [--ignore-mtime PATH]... [--clamp-negative-mtime N]: say where two directory trees differ.

Compared: names, type, mode, owner, device number, size, content, symlink target, xattrs (the store's own
user.smfs.* aside), modification time to the nanosecond, and which names are hard links of one inode.
"""
import argparse
import os
import stat
import sys


def xattrs(path):
    return {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
        if not name.startswith("user.smfs.")
    }


def content_differs(a, b):
    with open(a, "rb") as fa, open(b, "rb") as fb:
        while True:
            x, y = fa.read(1 << 20), fb.read(1 << 20)
            if x != y:
                return True
            if not x:
                return False


class Tree:
    def __init__(self, root):
        self.root = os.fsencode(root)
        self.stat = {}
        links = {}
        self.add(b".")
        for folder, dirs, files in os.walk(self.root, onerror=self.fail):
            for name in dirs + files:
                self.add(os.path.relpath(os.path.join(folder, name), self.root))
        for path, st in self.stat.items():
            # One link is no hard link: the mount gives equal files of equal folders one number.
            if not stat.S_ISDIR(st.st_mode) and st.st_nlink > 1:
                links.setdefault(st.st_ino, []).append(path)
        self.links = {p: tuple(sorted(group)) for group in links.values() for p in group}

    @staticmethod
    def fail(error):
        raise error

    def add(self, path):
        self.stat[path] = os.lstat(os.path.join(self.root, path))

    def path(self, path):
        return os.path.join(self.root, path)


def differences(a, b, ignore_mtime, clamp):
    for path in sorted(a.stat.keys() ^ b.stat.keys()):
        yield path, "only in " + os.fsdecode((a if path in a.stat else b).root)
    for path in sorted(a.stat.keys() & b.stat.keys()):
        x, y = a.stat[path], b.stat[path]
        kind = stat.S_IFMT(x.st_mode)
        if x.st_mode != y.st_mode:
            yield path, "mode %o, %o" % (x.st_mode, y.st_mode)
            continue
        if (x.st_uid, x.st_gid) != (y.st_uid, y.st_gid):
            yield path, "owner %d:%d, %d:%d" % (x.st_uid, x.st_gid, y.st_uid, y.st_gid)
        tx, ty = x.st_mtime_ns, y.st_mtime_ns
        if tx != ty and os.fsdecode(path) not in ignore_mtime and not (clamp is not None and tx < 0 and ty == clamp):
            yield path, "mtime %d, %d" % (tx, ty)
        if kind in (stat.S_IFCHR, stat.S_IFBLK) and x.st_rdev != y.st_rdev:
            yield path, "device %x, %x" % (x.st_rdev, y.st_rdev)
        if kind == stat.S_IFREG:
            if x.st_size != y.st_size:
                yield path, "size %d, %d" % (x.st_size, y.st_size)
            elif content_differs(a.path(path), b.path(path)):
                yield path, "content"
        if kind == stat.S_IFLNK and os.readlink(a.path(path)) != os.readlink(b.path(path)):
            yield path, "target %r, %r" % (os.readlink(a.path(path)), os.readlink(b.path(path)))
        if kind != stat.S_IFDIR:
            if a.links.get(path) != b.links.get(path):
                yield path, "links %r, %r" % (a.links.get(path), b.links.get(path))
            if x.st_nlink != y.st_nlink:
                yield path, "nlink %d, %d" % (x.st_nlink, y.st_nlink)
        if xattrs(a.path(path)) != xattrs(b.path(path)):
            yield path, "xattrs %r, %r" % (xattrs(a.path(path)), xattrs(b.path(path)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("a")
    parser.add_argument("b")
    parser.add_argument("--ignore-mtime", action="append", default=[])
    parser.add_argument("--clamp-negative-mtime", type=int, default=None,
                        help="a time before 1970 in A may be this many nanoseconds in B")
    args = parser.parse_args()
    a, b = Tree(args.a), Tree(args.b)
    found = 0
    for path, what in differences(a, b, set(args.ignore_mtime), args.clamp_negative_mtime):
        print("%s: %s" % (os.fsdecode(path), what))
        found += 1
    print("# %d and %d names compared, %d differences" % (len(a.stat), len(b.stat), found))
    sys.exit(found != 0)


if __name__ == "__main__":
    main()
