"""Let histories happen: `python -m tests.simulation 17` tells all that happens in one, `0:1000` runs a thousand."""

import sys
import time
import traceback

from tests.simulation.history import happen, live, machine


def main(which: str) -> int:
    """Let the histories of a seed, or of a range of seeds, happen; return how many went wrong."""
    first, colon, end = which.partition(":")
    if not colon:
        live(int(first), print)
        return 0
    wrong, began = 0, time.process_time()
    with machine() as runs:
        for seed in range(int(first or 0), int(end)):
            try:
                happen(seed, runs)
            except Exception:
                wrong += 1
                print(f"seed {seed}: {traceback.format_exc(limit=-1).splitlines()[-1]}", flush=True)
    seconds, count = time.process_time() - began, int(end) - int(first or 0)
    print(f"{count} histories in {seconds:.1f} s of this processor, {count / seconds:.0f} a second; {wrong} went wrong")
    return wrong


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1])))
