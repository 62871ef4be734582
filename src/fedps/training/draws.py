"""What torch draws for one client, and the devices it runs on: each client has a stream of its own from the job's seed."""

import zlib
from collections.abc import Mapping

import torch

from fedps.config import Runner
from fedps.errors import JobError
from fedps.models.build import GENERATOR
from fedps.types import ClientId, State


class Stream:
    """One client's stream of torch's draws, of dropout: torch has one generator for all threads, and each borrows it.

        with stream:
            model(*inputs)

    Args:
        runner: its seed begins the stream, and it says whether CUDA draws too.
        client: whose.
    """

    def __init__(self, runner: Runner, client: ClientId) -> None:
        self._cuda = cuda() if runner.use_gpu else None
        devices = {"cpu": torch.device("cpu")} | ({"cuda": self._cuda} if self._cuda else {})
        seed = seed_of(runner.seed, client)
        self._drawn = {name: torch.Generator(device).manual_seed(seed).get_state() for name, device in devices.items()}
        self._before: dict[str, torch.Tensor] = {}

    def __enter__(self) -> None:
        GENERATOR.acquire()
        self._before = self._standing()
        self._set(self._drawn)

    def __exit__(self, *_: object) -> None:
        self._drawn = self._standing()
        self._set(self._before)
        GENERATOR.release()

    def state(self) -> State:
        """Return where it stands."""
        return {name: drawn.numpy() for name, drawn in self._drawn.items()}

    def restore(self, state: State) -> None:
        """Go on from what `state` returned; of a device that had no stream there it begins anew."""
        self._drawn |= {name: torch.from_numpy(state[name]) for name in self._drawn if name in state}

    def _standing(self) -> dict[str, torch.Tensor]:
        standing = {"cpu": torch.get_rng_state()}
        return standing if self._cuda is None else standing | {"cuda": torch.cuda.get_rng_state(self._cuda)}

    def _set(self, drawn: Mapping[str, torch.Tensor]) -> None:
        torch.set_rng_state(drawn["cpu"])
        if self._cuda is not None:
            torch.cuda.set_rng_state(drawn["cuda"], self._cuda)


def prepare_torch(seed: int, client: ClientId) -> None:
    """Set this thread up to train one client: a core of its own, and a stream from the job's seed for what its steps draw."""
    one_core()
    torch.manual_seed(seed_of(seed, client))


def one_core() -> None:
    """Let torch use one core in this process, and take the smallest floats for 0: arithmetic on them is many times slower."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def seed_of(seed: int, client: ClientId) -> int:
    """Return what a client's draws by torch begin with, given the job's seed."""
    return zlib.crc32(f"{seed} {client}".encode())


def cuda() -> torch.device:
    """Return the CUDA device to train on.

    Raises:
        JobError: there is none.
    """
    if not torch.cuda.is_available():
        raise JobError(
            "runner.use_gpu: true, but torch finds no CUDA device here: set it to false, or install a driver and a torch"
            f" built for CUDA (this is torch {torch.__version__})"
        )
    return torch.device("cuda")
