# ingest: `python` into an empty repository, the other four after it, `python` again under another name; what all
# take on disk. The best of $runs, contenders alternating.
others='boot idle files boot2'
run=0
while [ $run -lt "$runs" ]; do
	run=$((run + 1))
	for c in $contenders; do
		quietly "${c}_new" || exit 2
		us=$(put "$c" python "$T/python") || exit 2
		lowest "$c.first" "$us"
		all=$us
		for g in $others; do
			us=$(put "$c" "$g" "$T/$g") || exit 2
			all=$((all + us))
		done
		lowest "$c.all" "$all"
		lowest "$c.bytes" "$(disk_bytes "$c")"
		us=$(put "$c" python-again "$T/python") || exit 2
		lowest "$c.again" "$us"
	done
done

ours=$(rate "$guest_bytes" "$(got smfs.first)")
line ingest "$ours" MB/s "$(rate "$guest_bytes" "$(got casync.first)")" "$casync_name" '>=3'
line ingest "$ours" MB/s "$(rate "$guest_bytes" "$(got restic.first)")" "$restic_name" '>=2'
line ingest "$ours" MB/s "$(rate "$guest_bytes" "$(got borg.first)")" "$borg_name" '>=2'
ours=$(rate $((5 * guest_bytes)) "$(got smfs.all)")
line ingest-five "$ours" MB/s "$(rate $((5 * guest_bytes)) "$(got casync.all)")" "$casync_name" -
line ingest-five "$ours" MB/s "$(rate $((5 * guest_bytes)) "$(got restic.all)")" "$restic_name" -
line ingest-five "$ours" MB/s "$(rate $((5 * guest_bytes)) "$(got borg.all)")" "$borg_name" -
line ingest-duplicate "$(rate "$guest_bytes" "$(got smfs.again)")" MB/s "$(rate "$guest_bytes" "$(got smfs.first)")" \
	'first ingest' '>=5'
line stored-five "$(mb "$(got smfs.bytes)")" MB "$(mb "$(got restic.bytes)")" "$restic_name" '<=0.85'
line stored-five "$(mb "$(got smfs.bytes)")" MB "$(mb "$(got casync.bytes)")" "$casync_name" -
line stored-five "$(mb "$(got smfs.bytes)")" MB "$(mb "$(got borg.bytes)")" "$borg_name" -
