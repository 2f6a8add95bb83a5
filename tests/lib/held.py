"""held.py PARENT: HeldWriter (cases.py) for shell tests. Says "asked" once it is asked; then, when the next process that PARENT makes
to write a snapshot stands still, that one's number. It is left so."""
import sys

from cases import HeldWriter

writer = HeldWriter(int(sys.argv[1]))
print("asked", flush=True)
print(writer.held(), flush=True)
