"""What mutual TLS on every connection costs a job: the seed's, with certificates and in the clear, in turns."""

import tempfile
from pathlib import Path
from typing import Any

from bench.durability import MODES, SHARE
from bench.jobs import Run, run_job, write_job
from bench.records import Figure, Options, Result
from bench.served import CERTS, make_certificates
from bench.splits import shorten
from bench.turns import in_turns

PAIRS = {"full": 5, "quick": 2, "tiny": 1}  # runs with certificates, and as many without
ABOUT = (
    "`fedps run` of the quick start (10 workers, 1 server, a coordinator, one pass, no evaluation) with `--certs`, every"
    " connection by mutual TLS 1.3 and AES-128-GCM, and in the clear, in turns; a ratio is the median of the pairs'."
)


def measure(options: Options) -> Result:
    """Measure what TLS costs in each mode."""
    figures = list[Figure]()
    with tempfile.TemporaryDirectory(prefix="fedps-bench-") as name:
        folder, data = Path(name), Path(options.data)
        shorten(data / "train", folder / "train", SHARE[options.size])
        certs = folder / CERTS
        make_certificates(certs, [file.stem for file in (data / "train").glob("*.csv")])
        for what, keys in list(MODES.items())[: 1 if options.size == "tiny" else None]:
            train = folder / "train" if what in ("async", "sync") else data / "train"

            def run(kind: str, train: Path = train, keys: dict[str, Any] = keys) -> Run:
                job = write_job(folder, data, train, test=False, certs=certs if kind == "mTLS" else None, **keys)
                return run_job(job, Path(tempfile.mkdtemp(dir=folder)) / "run", folder / "cache")

            figures += in_turns(what, what, ("mTLS", "in the clear"), PAIRS[options.size], run)
    return Result("tls", ABOUT, tuple(figures))
