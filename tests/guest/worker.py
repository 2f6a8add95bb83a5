"""The cases of test_worker.sh: TAP on standard output."""
import sys

sys.path.insert(0, "tests/lib")
import worker_seed  # noqa: E402, F401
import worker_extended  # noqa: E402, F401
from cases import done  # noqa: E402

done()
