"""Measure one subject in this process: `python -m bench.one SUBJECT OPTIONS RESULT`, as `apart` starts it."""

import sys
from pathlib import Path

import msgspec

from bench.records import Options
from bench.subjects import measure

if __name__ == "__main__":
    subject, options, answer = sys.argv[1:]
    result = measure(subject, msgspec.json.decode(options, type=Options))
    Path(answer).write_bytes(msgspec.json.encode(result))
