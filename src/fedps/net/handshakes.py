"""How many handshakes failed, and why: gRPC tells it on standard error alone, a line each, as fast as strangers dial."""

import os
import re
import sys
import threading
from collections import Counter

FAILED = re.compile(rb"Handshake failed with .*SSL routines:OPENSSL_internal:(\w+)(?:: ([\w ]+))?")
MOST = 64  # reasons told apart between two looks
IN_WORDS = {  # of one who did so
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "showed no certificate",
    "certificate has expired": "showed a certificate that has expired",
    "certificate is not yet valid": "showed a certificate that is not valid yet",
    "unable to get local issuer certificate": "showed a certificate of another authority",
    "self signed certificate": "showed a certificate of no authority",
    "CERTIFICATE_VERIFY_FAILED": "showed a certificate that is not to be trusted",
    "WRONG_VERSION_NUMBER": "spoke no TLS",
    "HTTP_REQUEST": "spoke no TLS",
    "UNSUPPORTED_PROTOCOL": "spoke TLS older than 1.2",
    "NO_SHARED_CIPHER": "knew no cipher that is allowed",
}


class Handshakes:
    """Reads the process's standard error between its beginning and `close`: counts failed handshakes, and passes on the rest.

    What Python itself prints goes the direct way, so that nothing of it is lost with the process.
    """

    def __init__(self) -> None:
        self._counts, self._lock = Counter[str](), threading.Lock()
        sys.stderr.flush()
        self._before, (self._read, write) = os.dup(2), os.pipe()
        os.dup2(write, 2)
        os.close(write)
        self._python = sys.stderr
        if _is_standard(sys.stderr):
            sys.stderr = os.fdopen(os.dup(self._before), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
        self._thread = threading.Thread(target=self._listen, name="fedps handshakes", daemon=True)
        self._thread.start()

    def take(self) -> Counter[str]:
        """Return how many handshakes have failed since the last look, by what they did who dialled, in words."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        return counts

    def close(self) -> None:
        """Give the process its standard error back."""
        os.dup2(self._before, 2)  # the last that could be written to the pipe: it ends
        self._thread.join(5)
        if sys.stderr is not self._python:
            sys.stderr.close()
            sys.stderr = self._python
        os.close(self._before)

    def _listen(self) -> None:
        with os.fdopen(self._read, "rb") as lines:
            for line in lines:
                found = FAILED.search(line)
                if found is None:
                    os.write(self._before, line)
                    continue
                kind, detail = (part.decode() if part else "" for part in found.groups())
                why = IN_WORDS.get(detail) or IN_WORDS.get(kind) or f"failed by {(detail or kind).lower()}"
                with self._lock:
                    self._counts[why if len(self._counts) < MOST or why in self._counts else "failed otherwise"] += 1


def _is_standard(stream: object) -> bool:
    try:
        return stream.fileno() == 2  # type: ignore[attr-defined,no-any-return]
    except (AttributeError, OSError, ValueError):
        return False
