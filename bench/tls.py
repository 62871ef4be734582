"""What mutual TLS on every connection costs a job: the seed's, with certificates and in the clear, in turns."""

import tempfile
from pathlib import Path
from typing import Any

from bench.records import Options, Result
from bench.served import CERTS, make_certificates
from bench.turns import in_each_mode

PAIRS = {"full": 5, "quick": 2, "tiny": 1}  # runs with certificates, and as many without
ABOUT = (
    "`fedps run` of the quick start (10 workers, 1 server, a coordinator, one pass, no evaluation) with `--certs`, every"
    " connection by mutual TLS 1.3 and AES-128-GCM, and in the clear, in turns; a ratio is the median of the pairs'."
)


def measure(options: Options) -> Result:
    """Measure what TLS costs in each mode."""
    with tempfile.TemporaryDirectory(prefix="fedps-bench-") as name:
        certs = Path(name) / CERTS
        make_certificates(certs, [file.stem for file in (Path(options.data) / "train").glob("*.csv")])
        ways: dict[str, dict[str, Any]] = {"mTLS": {"certs": certs}, "in the clear": {}}
        return Result("tls", ABOUT, tuple(in_each_mode(options, Path(name), ways, PAIRS[options.size])))
