# What test_worker.sh runs where guests run: worker_job.sh IMAGE ROUNDS
. tests/vm/job.sh

step 'mount the store' smfs mount "$SMFS_STORE" "$M"
python3 tests/vm/worker_job.py "$1" "$2"
check 'the guest of a worker is right after every reset' [ $? -eq 0 ]
check 'no machine is left' [ -z "$(smvm-runner ps -q)" ]
tap_done
