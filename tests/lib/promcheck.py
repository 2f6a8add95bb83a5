"""A strict parser of Prometheus's text format, and of its naming conventions, as far as smfs uses them.

    promcheck.py FILE [NAME...]      fails with the line at fault; each NAME must be there

Every family: one HELP, then one TYPE, then its samples, all together and nothing else. Counters end in
_total and gauges do not; units are base units; the file ends with a newline; no sample comes twice.
"""
import re
import sys

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABELS = r'\{(?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"(?:,(?!\}))?)+\}'
SAMPLE = re.compile(rf"({NAME})({LABELS})? (NaN|[+-]?Inf|[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)")


def parse(text):
    assert text.endswith("\n"), "no newline at the end"
    families, now, seen = {}, None, set()
    for line in text[:-1].split("\n"):
        if m := re.fullmatch(rf"# HELP ({NAME}) (\S.*\S)", line):
            assert m[1] not in families, f"second HELP: {line}"
            assert m[2].endswith("."), f"help is no sentence: {line}"
            families[m[1]] = {"type": None, "samples": {}}
            now = m[1]
        elif m := re.fullmatch(rf"# TYPE ({NAME}) (counter|gauge)", line):
            assert m[1] == now and families[now]["type"] is None, f"TYPE out of place: {line}"
            families[now]["type"] = m[2]
        else:
            m = SAMPLE.fullmatch(line)
            assert m, f"no sample: {line!r}"
            assert m[1] == now and families[now]["type"], f"sample out of place: {line}"
            assert (m[1], m[2]) not in seen, f"sample twice: {line}"
            seen.add((m[1], m[2]))
            families[now]["samples"][m[2] or ""] = float(m[3])
    for name, f in families.items():
        assert f["samples"], f"{name}: no sample"
        assert name.startswith("smfs_"), f"{name}: no namespace"
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name), f"{name}: not snake_case"
        assert (f["type"] == "counter") == name.endswith("_total"), f"{name}: {f['type']}"
        assert not re.search(r"_(kib|mib|ms|milliseconds|minutes|kilobytes)(_|$)", name), f"{name}: unit"
        assert all(v >= 0 for v in f["samples"].values()), f"{name}: negative"
    return families


if __name__ == "__main__":
    got = parse(open(sys.argv[1]).read())
    for want in sys.argv[2:]:
        assert want in got, f"{want}: missing"
