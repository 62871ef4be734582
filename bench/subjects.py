"""The subjects by name, each in a module of its own that is imported only where it is measured."""

from collections.abc import Callable
from importlib import import_module

from bench.records import Options, Result

SUBJECTS = {
    "job": "ten clients, a server and a coordinator train one pass: from the command to its exit",
    "step": "the training step beside plain PyTorch loops, on one core",
    "table": "a server's tables beside numpy and torch, from 10 k to 10 M rows",
    "wire": "pulls through the product's own client beside a bare socket",
    "scaling": "the job with 1 to 20 workers, and with 1 to 4 servers",
    "rounds": "what a round of the coordinator costs beside training",
    "saves": "a server's saves and loads beside copying the same bytes",
    "durability": "what it costs that a server's death loses nothing, in each mode; how soon one is back",
    "tls": "what mutual TLS on every connection costs a job, in each mode",
    "stalls": "pulls while tables are saved or summed up, and how long it takes to make them anew",
    "size": "50 M rows over two servers, and bounded tables under 100 M distinct ids: memory and pauses",
    "selection": "time to a quality for each selector, on the simulated clock of 100 virtual clients",
    "merges": "what the model is worth with each mode and merge, after 2 passes and after 20",
    "ctr": "DeepFM and DCN-v2 on clicks in Criteo's form, beside plain PyTorch loops; four workers beside one",
    "central": "networks of features in each mode, beside the same network trained on all data in one place",
    "vertical": "both parties' parts of a vertical network in one process, beside the same network whole",
    "cut": "two parties over a socket, direct and through a relay that takes 20 ms, beside all in one process",
    "psi": "how long two parties take to find the ids that both have, and how many bytes pass",
    "parties": "vertical training of published sets: together over the wire, joined in one place, each side alone",
}
NAMED_ONLY = (
    "durability",
    "tls",
    "size",
    "selection",
    "merges",
    "ctr",
    "central",
    "vertical",
    "cut",
    "psi",
    "parties",
)  # take long; measured where they are asked for by name
Measure = Callable[[Options], Result]


def measure(subject: str, options: Options) -> Result:
    """Measure a subject here, in this process; what it is at goes to standard output, a line each."""
    found: Measure = import_module(f"bench.{subject}").measure
    return found(options)
