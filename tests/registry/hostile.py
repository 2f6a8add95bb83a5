#!/usr/bin/python3
"""hostile.py OUTDIR: OCI layouts, one per folder, each wrong (or odd but right) in one way.

Prints "NAME good|EXPECTED WORDS OF THE REFUSAL" for each, which test_hostile.sh checks.
"""
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile

OUT = sys.argv[1]


def tar(*entries, end=True):
    """A tar of (name, keyword arguments of TarInfo, data)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as t:
        for name, fields, data in entries:
            info = tarfile.TarInfo(name)
            for key, value in fields.items():
                setattr(info, key, value)
            info.size = fields.get("size", len(data) if data is not None else 0)
            t.addfile(info, io.BytesIO(data) if data is not None else None)
        offset = t.offset
    return out.getvalue() if end else out.getvalue()[:offset]


def f(name, data=b"x", **fields):
    return name, fields, data


def d(name, **fields):
    return name, dict(type=tarfile.DIRTYPE, mode=0o755, **fields), None


def link(name, target, **fields):
    return name, dict(type=tarfile.LNKTYPE, linkname=target, **fields), None


def sym(name, target):
    return name, dict(type=tarfile.SYMTYPE, linkname=target), None


def gnu_sparse():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "sparse")
        with open(path, "wb") as out:
            out.seek(1 << 20)
            out.write(b"data")
            out.truncate(3 << 20)
        return subprocess.run(["tar", "-C", folder, "-S", "--format=gnu", "-cf", "-", "sparse"], check=True,
                              stdout=subprocess.PIPE).stdout


class Layout:
    def __init__(self, name, expected):
        self.dir = os.path.join(OUT, name)
        os.makedirs(os.path.join(self.dir, "blobs", "sha256"))
        print(name, expected)

    def blob(self, data):
        digest = hashlib.sha256(data).hexdigest()
        with open(os.path.join(self.dir, "blobs", "sha256", digest), "wb") as out:
            out.write(data)
        return {"digest": "sha256:" + digest, "size": len(data)}

    def write(self, layers, config=None, manifest=None, index=None):
        """layers: (blob, media type suffix, uncompressed)."""
        diff_ids = ["sha256:" + hashlib.sha256(raw).hexdigest() for _, _, raw in layers]
        doc = {"architecture": "amd64", "os": "linux", "config": {},
               "rootfs": {"type": "layers", "diff_ids": diff_ids}}
        doc.update(config or {})
        prefix = "application/vnd.oci.image."
        body = {"schemaVersion": 2,
                "config": {"mediaType": prefix + "config.v1+json", **self.blob(json.dumps(doc).encode())},
                "layers": [{"mediaType": prefix + "layer.v1.tar" + suffix, **self.blob(blob)}
                           for blob, suffix, _ in layers]}
        body.update(manifest or {})
        top = {"mediaType": prefix + "manifest.v1+json", **self.blob(json.dumps(body).encode()),
               "annotations": {"org.opencontainers.image.ref.name": "1"}}
        top.update(index or {})
        with open(os.path.join(self.dir, "index.json"), "w", encoding="utf-8") as out:
            json.dump({"schemaVersion": 2, "manifests": [top]}, out)
        with open(os.path.join(self.dir, "oci-layout"), "w", encoding="utf-8") as out:
            out.write('{"imageLayoutVersion": "1.0.0"}')


def plain(name, expected, *tars, **more):
    Layout(name, expected).write([(t, "", t) for t in tars], **more)


def packed(name, expected, suffix, pack, unpacked=lambda raw: raw, data=b"content" * 1000):
    """One layer, of content of its own: a layer the store knows would not be read again."""
    raw = tar(f("a", name.encode() + data))
    Layout(name, expected).write([(pack(raw), suffix, unpacked(raw))])


def trees():
    ok = tar(f("ok"))
    plain("plain", "good", ok)
    plain("no-layers", "good")
    plain("same-layer-twice", "good", ok, ok)
    plain("escapes-are-clamped", "good", tar(f("../../../etc/clamped"), f("/abs"), sym("up", "../../.."), f("up/in")))
    plain("no-end-of-archive", "good", tar(f("a", b"12345"), end=False)[:-507])
    plain("cut-in-data", "Truncated", tar(f("a", b"1" * 1000), end=False)[:-100])
    plain("cut-by-a-block", "ends in the middle", tar(f("a", b"1" * 1000), end=False)[:512 + 488])
    plain("cut-in-header", "Unrecognized", tar(f("a"))[:300])
    plain("cut-in-second-header", "Truncated", tar(d("a"), d("b"))[:512 + 300])
    plain("gnu-sparse", "good", gnu_sparse())
    plain("device-zero-is-a-whiteout", "good", tar(f("a")), tar(("a", dict(type=tarfile.CHRTYPE), None)))
    plain("opaque-root", "good", tar(f("gone")), tar(f(".wh..wh..opq", b""), f("new")))
    plain("aufs-leftovers", "good", tar(f(".wh..wh.plnk", b""), f(".wh..wh.aufs", b"")))
    plain("whiteout-of-nothing", "whiteout of no name", tar(f("d/.wh.", b"")))
    plain("whiteout-of-dotdot", "whiteout of no name", tar(f("d/.wh...", b"")))
    plain("link-to-nothing", "in no layer", tar(link("a", "missing")))
    plain("link-to-directory", "directory", tar(d("dir"), link("a", "dir")))
    plain("link-to-lower-directory", "a directory", tar(d("dir")), tar(link("a", "dir")))
    plain("link-to-itself", "link to itself\\|in no layer", tar(f("a"), link("a", "a")))
    plain("link-to-root", "directory", tar(link("a", "/")))
    plain("link-through-escape", "in no layer", tar(link("passwd", "../../../../etc/passwd")))
    plain("root-is-a-file", "root must be a directory", tar(f(".", b"", type=tarfile.REGTYPE)))
    plain("root-is-a-symlink", "root must be a directory", tar(sym(".", "/etc")))
    plain("below-a-file", "not a directory", tar(f("a"), f("a/b")))
    plain("below-a-lower-file", "good", tar(f("a")), tar(f("a/b")))
    plain("symlink-loop", "too many levels", tar(sym("a", "b"), sym("b", "a"), f("a/x")))
    plain("lower-symlink-loop", "too many levels", tar(sym("a", "b"), sym("b", "a")), tar(f("a/x")))
    plain("opaque-through-symlink-to-root", "good", tar(d("x"), sym("x/s", "/"), f("y")),
          tar(f("x/s/.wh..wh..opq", b""), f("x/new"), f("x/s/z")))
    plain("long-name", "longer than 255", tar(f("n" * 256)))
    plain("long-path", "longer than", tar(f("/".join(["p" * 100] * 42))))
    plain("name-of-255", "rootfs.erofs holds up to 254", tar(f("n" * 255)))
    plain("deep", "folders deep", tar(f("/".join(["d"] * 600))))
    plain("huge-owner", "out of range", tar(f("a", uid=4294967295)))
    plain("negative-owner", "out of range", tar(f("a", pax_headers={"uid": "-7"})))
    plain("overlay-xattr-in-tar", "good", tar(d("a")), tar(d("a", pax_headers={"SCHILY.xattr.trusted.overlay.opaque": "y"})))
    plain("big-xattr", "xtended attribute\\|xattr", tar(f("a", pax_headers={"SCHILY.xattr.user.big": "v" * 70000})))
    plain("symlink-too-long", "too long a path", tar(sym("a", "t" * 4096)))
    plain("not-a-tar", "nrecognized\\|not a\\|amaged", b"this is no archive\n" * 100)
    plain("huge-file-claim", "max-size", tar(("a", {"size": 1 << 50}, None), end=False))


def zstd(data):
    return subprocess.run(["zstd", "-q", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout


def halves(pack):
    return lambda raw: pack(raw[:512]) + pack(raw[512:])


def streams():
    packed("gzip", "good", "+gzip", gzip.compress)
    packed("gzip-members", "good", "+gzip", halves(gzip.compress))
    packed("zstd", "good", "+zstd", zstd)
    packed("zstd-frames", "good", "+zstd", halves(zstd))
    packed("gzip-cut", "ends in the middle", "+gzip", lambda raw: gzip.compress(raw)[:-20])
    packed("zstd-cut", "ends in the middle", "+zstd", lambda raw: zstd(raw)[:-5])
    packed("gzip-called-zstd", "not valid zstd", "+zstd", gzip.compress)
    packed("zstd-called-gzip", "not valid gzip", "+gzip", zstd)
    packed("gzip-called-tar", "nrecognized\\|not a\\|amaged", "", gzip.compress)
    packed("gzip-garbage-after", "not valid gzip", "+gzip", lambda raw: gzip.compress(raw) + b"garbage")
    packed("bomb", "decompression bomb", "+zstd", zstd, data=bytes(300 << 20))
    packed("wrong-diff-id", "the config says", "", lambda raw: raw, lambda raw: raw + b"\0")


def documents():
    raw = tar(f("a"))
    plain("missing-diff-id", "0 diff_ids for 1 layers", raw, config={"rootfs": {"type": "layers", "diff_ids": []}})
    plain("diff-id-no-digest", "64 lower-case", raw, config={"rootfs": {"type": "layers", "diff_ids": ["sha256:../../x"]}})
    plain("other-architecture", "choose with --platform", raw, config={"architecture": "arm64"})
    plain("rootfs-type", "not a list of layers", raw, config={"rootfs": {"type": "x", "diff_ids": []}})
    plain("layers-no-list", "list of layers", raw, manifest={"layers": {}})
    plain("many-layers", "longer than 512", raw, manifest={"layers": [{}] * 513})
    plain("negative-size", "descriptor with a size", raw, manifest={"layers": [
        {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": "sha256:" + "0" * 64, "size": -1}]})
    plain("digest-sha512", "64 lower-case", raw, manifest={"layers": [
        {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": "sha512:" + "0" * 128, "size": 1}]})
    plain("digest-escapes", "64 lower-case", raw, index={"digest": "sha256:../../../../../etc/passwd"})
    plain("manifest-size", "promised", raw, index={"size": 17})
    plain("deep-json", "not valid JSON", raw)
    deep = ("[" * 100000).encode()
    path = os.path.join(OUT, "deep-json")
    digest = hashlib.sha256(deep).hexdigest()
    with open(os.path.join(path, "blobs", "sha256", digest), "wb") as out:
        out.write(deep)
    with open(os.path.join(path, "index.json"), "w", encoding="utf-8") as out:
        json.dump({"schemaVersion": 2, "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json",
                                                       "digest": "sha256:" + digest, "size": len(deep),
                                                       "annotations": {"org.opencontainers.image.ref.name": "1"}}]}, out)
    fifo = Layout("blob-is-a-fifo", "not a regular file")
    raw = tar(f("fifo"))
    fifo.write([(raw, "", raw)])
    blob = os.path.join(fifo.dir, "blobs", "sha256", hashlib.sha256(raw).hexdigest())
    os.unlink(blob)
    os.mkfifo(blob)


trees()
streams()
documents()
