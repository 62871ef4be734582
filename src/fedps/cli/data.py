"""`fedps data`: prepare real data, or make a synthetic twin, for federated training."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number

from fedps.cli.app import Switch, app, flag
from fedps.errors import JobError

data_app = App(name="data", help="Prepare data for federated training.")
prepare_app = App(name="prepare", help="Split a real data set over clients.")
synth_app = App(name="synth", help="Make a synthetic twin of a data set, with planted taste.")
app.command(data_app)
data_app.command(prepare_app)
data_app.command(synth_app)

Out = Annotated[Path, flag("out", "Folder to make.")]
Partition = Annotated[
    Literal["zipcode", "iid", "dirichlet", "quantity"], flag("partition", "How users become clients.")
]
Clients = Annotated[
    int | None,
    flag("clients", "Number of clients (10; not for zipcode, which makes one of each first digit).", least=1),
]
Alpha = Annotated[
    float | None,
    Parameter(validator=Number(gt=0), help="Skew of dirichlet and quantity (0.5); small is skewed."),
]
Negatives = Annotated[int, flag("negatives", "Sampled negatives for each positive.", least=0)]
Seed = Annotated[int, flag("seed", "Of all draws.", least=0)]
Law = Literal["lognormal", "pareto", "same"]
SPREADS = "lognormal, pareto (of the time a sample takes) or same (for all)"
SPREAD = "0 is none; 1 is a factor of 27 between the slowest and the fastest twentieth (lognormal)."


@prepare_app.command(name="movielens")
def prepare_movielens(
    *,
    out: Out,
    source: Annotated[
        str | None,
        flag(
            "source",
            "The zip file of ml-1m, ml-10m, ml-100k, ml-latest or ml-latest-small, its folder, or a URL (default $FEDPS_DATA, then the publisher).",
        ),
    ] = None,
    partition: Partition = "zipcode",
    clients: Clients = None,
    alpha: Alpha = None,
    negatives: Negatives = 4,
    test_negatives: Annotated[
        Path | None, flag("test-negatives", "Published test negatives; drawn if left out.")
    ] = None,
    test_rating: Annotated[
        Path | None, flag("test-rating", "Published test positives; each user's latest if left out.")
    ] = None,
    seed: Seed = 0,
    task: Annotated[
        Literal["ncf", "ratings", "sequences"],
        flag(
            "task",
            "ncf: pairs, one held out a user; ratings: with features of user and item, 80/10/10; sequences: what came next.",
        ),
    ] = "ncf",
    or_synthetic: Annotated[
        bool, Switch, flag("or-synthetic", "Make a synthetic twin, and say so loudly, where real data cannot be had.")
    ] = False,
) -> None:
    """Prepare MovieLens: in the NCF split (leave one out, 99 test negatives), or with features, or as sequences."""
    from fedps.data.prepare.featured import prepare_ratings, prepare_sequences  # noqa: PLC0415
    from fedps.data.prepare.movielens import prepare  # noqa: PLC0415
    from fedps.data.prepare.synth import synthesize  # noqa: PLC0415
    from fedps.errors import DataError  # noqa: PLC0415

    split = _split(partition, clients, alpha)
    if task != "ncf":
        featured = prepare_ratings if task == "ratings" else prepare_sequences
        _describe(featured(out, source, split, seed), out)
        return
    try:
        manifest = prepare(out, source, split, negatives, test_rating, test_negatives, seed)
    except DataError as error:
        if not or_synthetic or source is not None:
            raise
        print(
            f"{error}\n\n*** NO REAL DATA: making a SYNTHETIC twin; its figures say nothing of MovieLens ***\n",
            file=sys.stderr,
        )
        manifest = synthesize(out, split=split, per_positive=negatives, seed=seed)
    _describe(manifest, out)


@prepare_app.command(name="fields")
def prepare_fields(
    source: Annotated[list[Path], flag("source", "Files of lines `label index:1 index:1 …`, plain or gzip.")],
    *,
    out: Out,
    clients: Annotated[
        int, flag("clients", "Number of clients; the first field's ids are dealt out to them.", least=1)
    ] = 10,
    seed: Seed = 0,
) -> None:
    """Prepare files of libfm's form, such as Frappe: each field is a feature of one id."""
    from fedps.data.prepare import featured  # noqa: PLC0415

    _describe(featured.prepare_fields(out, source, clients, seed), out)


@synth_app.command(name="movielens")
def synth_movielens(
    *,
    out: Out,
    users: Annotated[int, flag("users", "Number of users.", least=1)] = 6040,
    items: Annotated[int, flag("items", "Number of items.", least=1)] = 3706,
    per_user: Annotated[int, flag("per-user", "Interactions of a user on average.", least=1)] = 165,
    partition: Partition = "zipcode",
    clients: Clients = None,
    alpha: Alpha = None,
    negatives: Negatives = 4,
    seed: Seed = 0,
) -> None:
    """Make a synthetic twin of MovieLens with planted taste."""
    from fedps.data.prepare.synth import synthesize  # noqa: PLC0415

    _describe(synthesize(out, users, items, per_user, _split(partition, clients, alpha), negatives, seed), out)


@synth_app.command(name="ctr")
def synth_clicks(
    *,
    out: Out,
    samples: Annotated[int, flag("samples", "Number of samples.", least=20)] = 1_000_000,
    values: Annotated[int, flag("values", "Number of ids there are, over all 26 slots.", least=1000)] = 10_000_000,
    clients: Annotated[int, flag("clients", "Number of clients.", least=1)] = 4,
    seed: Seed = 0,
) -> None:
    """Make up clicks in the form of Criteo's display ads: 13 numbers and 26 ids of an open space a sample."""
    from fedps.data.prepare.clicks import synthesize_clicks  # noqa: PLC0415

    _describe(synthesize_clicks(out, samples, clients, values, seed), out)


@data_app.command(name="traces")
def traces(
    *,
    out: Annotated[Path, flag("out", "File to write; one that is there is replaced.")],
    clients: Annotated[
        int | None, flag("clients", "Number of clients, named 0, 1, …; instead of --data.", least=1)
    ] = None,
    data: Annotated[Path | None, flag("data", "Folder of prepared data, whose clients get a trace each.")] = None,
    seed: Seed = 0,
    speed: Annotated[Law, flag("speed", f"How training speeds are spread: {SPREADS}.")] = "lognormal",
    speed_median: Annotated[float, flag("speed-median", "Samples a second.")] = 5_000.0,
    speed_spread: Annotated[float, flag("speed-spread", SPREAD)] = 1.0,
    bandwidth: Annotated[Law, flag("bandwidth", "How bandwidths are spread, likewise.")] = "lognormal",
    bandwidth_median: Annotated[float, flag("bandwidth-median", "Bytes a second.")] = 500_000.0,
    bandwidth_spread: Annotated[float, flag("bandwidth-spread", SPREAD)] = 1.0,
    online: Annotated[float, flag("online", "Share of the day in which a client can be picked; 1: always.")] = 1.0,
    stretch: Annotated[float, flag("stretch", "Mean seconds for which it then stays.")] = 14_400.0,
    dropout: Annotated[float, flag("dropout", "Probability that a client drops out of a round.")] = 0.0,
) -> None:
    """Make up simulated devices for simulation.traces of a job, with heavy tails as phones have them.

    Example: fedps data traces --data .data/ml-1m --online 0.5 --dropout 0.05 --out traces.json
    """
    from fedps.simulation.generate import Population, Spread, make_traces  # noqa: PLC0415
    from fedps.simulation.traces import write_traces  # noqa: PLC0415

    names = _clients(clients, data)
    population = Population(
        Spread(speed, speed_median, speed_spread), Spread(bandwidth, bandwidth_median, bandwidth_spread),
        online, stretch, dropout, seed,
    )  # fmt: skip
    traces = make_traces(names, population)
    write_traces(out, traces, asdict(population))
    print(f"{'':>10} {'slowest':>12} {'5 %':>12} {'median':>12} {'95 %':>12} {'fastest':>12}")
    for name, unit in (("speed", "samples/s"), ("bandwidth", "bytes/s")):
        ranked = sorted(getattr(trace, name) for trace in traces.values())
        at = (ranked[round(share * (len(ranked) - 1))] for share in (0, 0.05, 0.5, 0.95, 1))
        print(f"{name:>10} {' '.join(f'{value:>12,.0f}' for value in at)}   {unit}")
    print(f"simulated devices of {len(traces)} clients in {out}")


def _clients(count: int | None, data: Path | None) -> list[Any]:
    """Return the names of the clients that flags ask for.

    Raises:
        JobError: both flags or none, or a folder without prepared data.
    """
    from fedps.config.files import files_in  # noqa: PLC0415

    if (count is None) == (data is None):
        raise JobError("say whose traces to make: either --clients N or --data FOLDER of prepared data")
    if data is None:
        return [str(number) for number in range(count or 0)]
    try:
        names = [file.stem for file in files_in(data / "train")]
    except OSError:
        names = []
    if not names:
        raise JobError(f"--data {data}: holds no train/<client>.csv; name a folder of `fedps data prepare`")
    return names


def _split(partition: Partition, clients: int | None, alpha: float | None) -> Any:
    """Return the split that flags ask for.

    Raises:
        JobError: a flag that the partition has no use for.
    """
    from fedps.data.prepare.write import Split  # noqa: PLC0415

    mistakes = []
    if partition == "zipcode" and clients is not None:
        mistakes.append(
            f"--clients {clients}: zipcode makes one client of each first digit; leave it out, or choose another"
            " --partition, e.g. iid"
        )
    if partition not in ("dirichlet", "quantity") and alpha is not None:
        mistakes.append(f"--alpha {alpha}: {partition} knows no skew; leave it out, or use dirichlet or quantity")
    if mistakes:
        raise JobError(mistakes)
    plain = Split()
    return Split(partition, plain.clients if clients is None else clients, plain.alpha if alpha is None else alpha)


def _describe(manifest: Any, out: Path) -> None:
    print(f"{'client':>8} {'users':>8} {'samples':>11}")
    for client, facts in manifest["clients"].items():
        print(f"{client:>8} {facts['users']:>8,} {facts['samples']:>11,}")
    samples = sum(f["samples"] for f in manifest["clients"].values())
    print(f"{'all':>8} {manifest['num_users']:>8,} {samples:>11,}   {manifest['num_items']:,} items")
    print(f"source: {manifest['source']}{' (SYNTHETIC)' if manifest['synthetic'] else ''}; prepared in {out}")
