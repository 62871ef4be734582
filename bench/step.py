"""The training step beside plain PyTorch loops: one core, the same network, samples and batches, in turn."""

import json
import shutil
import tempfile
from pathlib import Path

import yaml

from bench.clock import Work, in_turn, rate
from bench.jobs import write_job
from bench.loops import FORMS, make_loop
from bench.records import Figure, Options, Result
from fedps.config import Job, load_job
from fedps.data.read.client import read_client
from fedps.data.samples import ClientData
from fedps.models.network import Plan
from fedps.training.learner import Learner
from fedps.training.plan import make_plan
from fedps.types import ClientId

OWN = Path(__file__).parents[1] / "examples" / "own_network.py"  # there in a checkout, not in an installed package
PRIVATE = {
    "NCF_MLP": ["mlp_user.weight"],
    "NCF_GMF": ["mf_user.weight"],
    "NCF_NeuMF": ["mf_user.weight", "mlp_user.weight"],
    "TwoTowers": ["user.weight"],
}
WINDOW = 100  # batches
WINDOWS = {"full": 2, "quick": 1, "tiny": 1}  # in a round
ROUNDS = {"full": 5, "quick": 3, "tiny": 1}
ABOUT = (
    "One process, one core, the client with most samples, batch 512. fedps trains windows of 100 batches as a geo worker"
    " does, without servers; the loops train the same batches, read as slices, with one thread and denormals flushed."
    " Contenders take turns; best round, and median. All train with Adam; fedps's gives the numbers of torch's, whole"
    " tables included."
)


def measure(options: Options) -> Result:
    """Train the three networks, and the one of examples/ where it is there."""
    import torch  # noqa: PLC0415

    torch.set_num_threads(1)
    data, figures, notes = Path(options.data), list[Figure](), list[str]()
    names = [name for name in PRIVATE if name != "TwoTowers" or OWN.is_file()]
    if not OWN.is_file():
        notes.append("The network of examples/ is left out: it is not part of the installed package.")
    for network in names[: 1 if options.size == "tiny" else None]:
        with tempfile.TemporaryDirectory(prefix="fedps-bench-") as folder:
            print(f"{network}: planning", flush=True)
            job = _job(Path(folder), data, network)
            plan = make_plan(job)
            if plan.reason:
                notes.append(f"{network}: fedps trains by torch here: {plan.reason}")
            print(f"{network}: training", flush=True)
            figures += _compare(network, job, plan, _read(job, data), options)
    return Result("step", ABOUT, tuple(figures), notes=tuple(notes))


def _compare(network: str, job: Job, plan: Plan, data: ClientData, options: Options) -> list[Figure]:
    samples = min(WINDOWS[options.size] * WINDOW * job.runner.train_batch_size, len(data))
    contenders: dict[str, Work] = {"fedps": _ours(plan, job, data, samples)}
    contenders |= {form: make_loop(form, job, data, samples) for form in FORMS}
    taken = in_turn(contenders, ROUNDS[options.size])
    ours = f"{network}.fedps"
    figures = [rate(ours, f"{network}: fedps", "samples/s", samples, taken.pop("fedps"))]
    for form, seconds in taken.items():
        figures.append(rate(f"{network}.{form}", f"{network}: {FORMS[form]}", "samples/s", samples, seconds, ours))
    return figures


def _ours(plan: Plan, job: Job, data: ClientData, samples: int) -> Work:
    learner, size = Learner(plan, job, data, local_optimizer=True), job.runner.train_batch_size
    order = data.order(0)[:samples]

    def train() -> None:
        for at in range(0, samples, WINDOW * size):
            learner.train(order[at : at + WINDOW * size], size)

    return train


def _job(folder: Path, data: Path, network: str) -> Job:
    path = write_job(folder, data, test=False)
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    tree["runner"] |= {"local_sparse": PRIVATE[network]}
    del tree["runner"]["remote_sparse"], tree["runner"]["with_coordinator"]
    if network == "TwoTowers":
        shutil.copy(OWN, folder)
        tree["runner"]["model"] = f"own_network.{network}"
        tree["hyper_parameters"] |= {"dim": 16}
        del tree["hyper_parameters"]["mode"], tree["hyper_parameters"]["fc_layers"]
    else:
        tree["hyper_parameters"]["mode"] = network
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return load_job(path)


def _read(job: Job, data: Path) -> ClientData:
    clients = json.loads((data / "manifest.json").read_text(encoding="utf-8"))["clients"]
    return read_client(job, ClientId(max(clients, key=lambda name: clients[name]["samples"])))
