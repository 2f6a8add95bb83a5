# What test_pool.sh runs where guests run: pool_job.sh IMAGE CLAIMS
. tests/vm/job.sh

step 'mount the store' smfs mount "$SMFS_STORE" "$M"
python3 tests/vm/pool_job.py "$1" "$2" >"$T/cases"
failed=$?
sed 's/^1\.\.[0-9]*$/# &/; s/^\(not \)*ok [0-9]*/# \1ok/' "$T/cases"
check 'every claim has a machine of its own' [ $failed -eq 0 ]
[ $failed -eq 0 ] || sed 's/^/# /' "$T/pools.log"
check 'no machine is left' [ -z "$(smvm-runner ps -q)" ]
check 'nor anything of one' [ -z "$(ls "$SMVM_RUN_DIR" | grep -v '\.lock$')" ]
tap_done
