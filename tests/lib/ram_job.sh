# What the guest of ram.sh does until each moment its RAM is kept: ram_job.sh STAGE...
#
# The work is bounded by memory, not by time, so that an image is about as full whatever the machine's speed:
# programs' objects, page cache of the files they read, files in tmpfs. A line "stage NAME" announces the moment,
# and nothing much happens in the seconds after it.
stage() {
	echo "stage $1"
	sleep 3
}

work() { # work STAGE
	case $1 in
	boot*) ;;
	idle) sleep 10 ;;
	python)
		python3 - <<-'PY'
			import ast, glob, json, resource, time
			# Parse the standard library until some hundred MiB of live objects exist, and keep them.
			kept, limit_kib = [], 320 << 10
			for path in sorted(glob.glob("/usr/lib/python3.11/**/*.py", recursive=True)):
			    with open(path, "rb") as f:
			        text = f.read()
			    try:
			        tree = ast.parse(text)
			    except (SyntaxError, ValueError):
			        continue
			    kept.append((path, text.decode("utf-8", "replace").split(), tree))
			    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > limit_kib:
			        break
			index = {}
			for path, words, _ in kept:
			    for n, word in enumerate(words):
			        index.setdefault(word, []).append((path, n))
			with open("/tmp/index.json", "w") as f:
			    json.dump({w: len(p) for w, p in index.items()}, f)
			print("python:", len(kept), "modules,", len(index), "words,",
			      resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10, "MiB", flush=True)
			print("stage python", flush=True)
			time.sleep(3)
		PY
		;;
	files)
		find /usr -xdev -type f -exec cat {} + >/dev/null
		tar -C /usr -cf /tmp/bin.tar bin sbin
		tar -C /usr/lib -cf - python3.11 | gzip -1 >/tmp/python.tgz
		mkdir /tmp/tree && tar -C /tmp/tree -xf /tmp/bin.tar
		find /tmp/tree -type f -exec sha256sum {} + >/tmp/sums
		diff -r --no-dereference /usr/bin /tmp/tree/bin >/dev/null
		grep -E 'MemFree|^Cached|AnonPages' /proc/meminfo
		;;
	*) exit 2 ;;
	esac
}

for s; do
	work "$s"
	[ "$s" = python ] || stage "$s"
done
