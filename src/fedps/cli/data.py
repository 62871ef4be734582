"""`fedps data`: prepare real data, or make a synthetic twin, for federated training."""

import shlex
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
SEVERAL = Parameter(consume_multiple=True)
GUESSED = "Guessed by the usual names."
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
        Literal["ncf", "ratings", "sequences", "vertical"],
        flag(
            "task",
            "ncf: pairs, one held out a user; ratings: with features of user and item, 80/10/10; sequences: what came next;"
            " vertical: users and films at two parties.",
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

    if task == "vertical":
        _prepare_parties(out, source, seed, or_synthetic)
        return
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
        _warn_of_twin(error)
        manifest = synthesize(out, split=split, per_positive=negatives, seed=seed)
    _describe(manifest, out)


def _prepare_parties(out: Path, source: str | None, seed: int, or_synthetic: bool) -> None:
    """Write what two parties have of MovieLens, and say what that is."""
    from fedps.data.prepare.parties import prepare_parties, synthesize_parties  # noqa: PLC0415
    from fedps.errors import DataError  # noqa: PLC0415

    try:
        manifest = prepare_parties(out, source, seed)
    except DataError as error:
        if not or_synthetic or source is not None:
            raise
        _warn_of_twin(error)
        manifest = synthesize_parties(out, seed=seed)
    for party, facts in manifest["parties"].items():
        print(f"{out / f'{party}.csv'}: {facts['samples']:,} samples of {', '.join(facts['features'])}")
    print(f"source: {manifest['source']}{' (SYNTHETIC)' if manifest['synthetic'] else ''}")


def _warn_of_twin(error: Exception) -> None:
    print(
        f"{error}\n\n*** NO REAL DATA: making a SYNTHETIC twin; its figures say nothing of MovieLens ***\n",
        file=sys.stderr,
    )


# Flags of `prepare table`.
Interactions = Annotated[
    list[Path],
    SEVERAL,
    flag(
        "source",
        "Files of interactions, a line each: CSV, TSV, `::`, Parquet, RecBole's .inter; or ARCHIVE.zip/FILE.",
    ),
]
TimeColumn = Annotated[
    str | None, flag("time", f"Column of the time: numbers or ISO dates; `none`: there is none. {GUESSED}")
]
ClientColumn = Annotated[
    str | None,
    flag("client", "Column that says whose a line, or in --users a user, is: a hospital, a shop, a country."),
]
Positive = Annotated[
    str | None, flag("positive", 'Which ratings count as taken, e.g. ">= 4"; left out: every line does.')
]
Users = Annotated[Path | None, flag("users", "File about users: each column becomes a feature.")]
Items = Annotated[Path | None, flag("items", "File about items: titles, and features.")]
Task = Annotated[
    Literal["pairs", "ratings", "sequences"],
    flag("task", "pairs: who took what; ratings: each line has its own label; sequences: what came next."),
]
HeldOut = Annotated[
    Literal["leave-one-out", "time", "ratio"] | None,
    flag(
        "split",
        "What is held out: each user's latest, the latest --share of all, or a random one of each user's (ratings: ratio).",
    ),
]
Dealing = Annotated[
    Literal["iid", "quantity", "zipcode", "dirichlet"] | None,
    flag("partition", "How users become clients where no column says so (iid); the last two by zip codes in --users."),
]
SharedUsers = Annotated[
    Literal["refuse", "first", "largest", "apart"],
    flag(
        "shared-users",
        "Users in several clients: all lines go to the first or largest one, or they are a user of each.",
    ),
]
SharedItems = Annotated[
    Path | None,
    flag("catalogue", "The items that all sites share: items.csv of prepared data, or any list of items."),
]
UnknownItems = Annotated[
    Literal["leave", "refuse"],
    flag("unknown-items", "Lines of items that --catalogue lacks: leave them out, or refuse."),
]
DrawnHere = Annotated[
    int | None,
    flag(
        "negatives",
        "Drawn here for each positive (with features of items 4; else none, as training draws anew).",
        least=0,
    ),
]
Candidates = Annotated[
    bool, Parameter(negative="--no-candidates", help="Draw 99 beside each held-out item, for HR@10.")
]
Header = Annotated[bool | None, Parameter(help="Whether the first line names columns. Found out.")]


@prepare_app.command(name="table")
def prepare_table(
    source: Interactions,
    *,
    out: Out,
    user: Annotated[str | None, flag("user", f"Column of the user. {GUESSED}")] = None,
    item: Annotated[str | None, flag("item", f"Column of the item. {GUESSED}")] = None,
    rating: Annotated[str | None, flag("rating", f"Column of the rating, for --positive. {GUESSED}")] = None,
    time: TimeColumn = None,
    client: ClientColumn = None,
    positive: Positive = None,
    users: Users = None,
    items: Items = None,
    task: Task = "pairs",
    split: HeldOut = None,
    share: Annotated[float, flag("share", "Of lines, that --split time and ratio hold out.")] = 0.1,
    core: Annotated[int, flag("core", "Leave users and items with fewer lines out.", least=0)] = 0,
    partition: Dealing = None,
    clients: Annotated[int | None, flag("clients", "Number of clients (10).", least=1)] = None,
    alpha: Alpha = None,
    shared_users: SharedUsers = "refuse",
    site: Annotated[str | None, flag("site", "All lines are of this one client, who prepares them at home.")] = None,
    catalogue: SharedItems = None,
    unknown_items: UnknownItems = "leave",
    negatives: DrawnHere = None,
    candidates: Candidates = True,
    delimiter: Annotated[str | None, flag("delimiter", "What cuts lines of text. Found out.")] = None,
    encoding: Annotated[str | None, flag("encoding", "Of text. Found out: UTF-8, UTF-16 or Latin-1.")] = None,
    header: Header = None,
    seed: Seed = 0,
) -> None:
    """Prepare your own table of who took what: ratings, purchases, clicks.

    Columns are guessed from their names, and the guess is printed; without names they are called 1, 2, 3, …

    For example:

      fedps data prepare table ratings.csv --out .data/mine
      fedps data prepare table visits.parquet --client hospital --items drugs.csv --out .data/drugs
      fedps data prepare table ml-100k.zip/u.data --items ml-100k.zip/u.item --positive ">= 4" --out .data/films
      fedps data prepare table north.csv --site north --catalogue items.csv --out .data/north
    """
    from fedps.data.prepare import table  # noqa: PLC0415
    from fedps.data.prepare.forms import Hints  # noqa: PLC0415

    ask = table.Ask(
        source, {"user": user, "item": item, "rating": rating, "time": time, "client": client}, users, items, catalogue,
        unknown_items, positive, task, split, share, core, partition, clients, 0.5 if alpha is None else alpha, shared_users,
        site, negatives, candidates, seed, Hints(delimiter, encoding, header),
    )  # fmt: skip
    _describe(table.prepare_table(out, ask), out)


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
    users, samples = (sum(f[name] for f in manifest["clients"].values()) for name in ("users", "samples"))
    print(f"{'all':>8} {manifest.get('num_users', users):>8,} {samples:>11,}   {manifest['num_items']:,} items")
    print(f"source: {manifest['source']}{' (SYNTHETIC)' if manifest['synthetic'] else ''}; prepared in {out}")
    print(f"next: fedps run {shlex.quote(str(out))}  (or fedps init, to look at its job first)")
