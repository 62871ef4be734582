"""Anybody's table of interactions, prepared for federated training: read, cleaned, described, dealt out, split, written.

What was guessed, counted or left out is said as it is found, and stands in the manifest.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedps.data.catalogue import Catalogue
from fedps.data.negatives import Ids
from fedps.data.prepare.clean import Told, cleaned
from fedps.data.prepare.columns import ALL_NAMES, column_of, columns_of
from fedps.data.prepare.describe import OWN, Described, Facts, describe, name_of
from fedps.data.prepare.forms import Hints, Source
from fedps.data.prepare.interactions import Condition, Counted, Log, read_log
from fedps.data.prepare.split import SPLITS, clients_told_by, held_out, users_of_clients
from fedps.data.prepare.tasks import Ready, write_pairs, write_ratings, write_sequences
from fedps.data.prepare.write import Interactions, Split, clients_of, stream
from fedps.errors import DataError

CLIENTS = 10
NEGATIVES = 4  # for each positive, where training cannot draw them, as it knows no other item's features
ATOMIC = {".user": "users", ".item": "items"}  # RecBole's endings of files that tell of users and of items
TASKS = {"pairs": "leave-one-out", "ratings": "ratio", "sequences": "leave-one-out"}  # and how each is split
NO = ("0", "0.0", "-1", "False", "false")  # ratings that hardly mean that an item was taken
NONE = "none"  # in place of a column: there is none


@dataclass(frozen=True)
class Ask:
    """What is to be made of which files; the command line's flags, by their names.

    Attributes:
        source: files of interactions, and RecBole's about users and items.
        columns: by role (user, item, rating, time, client) its column, or `none`; others are guessed.
        users, items: files about them.
        catalogue: the items that others use, too; none: those of the source.
        unknown_items: `leave` out or `refuse` those that are not in the catalogue.
        positive: a condition on ratings; None: every line is.
        task: pairs, ratings or sequences.
        split, share: what is held out, see `held_out`.
        core: the least lines of a user and of an item.
        partition, clients, alpha: how users become clients where no column says so.
        shared_users: what becomes of users in several clients, see `one_client_each`.
        site: the one client whose data all of it is.
        negatives: drawn for each positive; None: in training, if it can.
        candidates: draw 99 beside each held-out positive.
        seed: of all draws.
        hints: what is known of the form of text.
    """

    source: Sequence[Path]
    columns: Mapping[str, str | None] = field(default_factory=dict)
    users: Path | None = None
    items: Path | None = None
    catalogue: Path | None = None
    unknown_items: str = "leave"
    positive: str | None = None
    task: str = "pairs"
    split: str | None = None
    share: float = 0.1
    core: int = 0
    partition: str | None = None
    clients: int | None = None
    alpha: float = 0.5
    shared_users: str = "refuse"
    site: str | None = None
    negatives: int | None = None
    candidates: bool = True
    seed: int = 0
    hints: Hints = Hints()  # noqa: RUF009  (a tuple of None)


def prepare_table(out: Path, ask: Ask, say: Callable[[str], None] = print) -> Mapping[str, Any]:
    """Prepare files of interactions; return the manifest.

    Args:
        out: the folder to make.
        ask: of which files, and how.
        say: takes in what is worth knowing, a line each.

    Raises:
        DataError: a file cannot be read, or cannot be prepared so; names file, line and column, and what to do.
    """
    ask, tell = _checked(ask), Told(say)
    beside = Hints(encoding=ask.hints.encoding)  # files about users and items may be cut otherwise
    users = _facts(ask.users, "user", beside, tell) if ask.users else None
    listed = _listed(ask.catalogue, beside, tell) if ask.catalogue else None
    columns, log, counted = _read(ask, users, listed, tell)
    log, counts = cleaned(
        log, listed, ask.unknown_items == "refuse", ask.shared_users, ask.task != "ratings", ask.core, tell
    )
    test, log = _split(log, ask, listed is not None, tell)
    shares = _shares(log, ask, columns, users)
    items = listed or _items_of(log.keys["item"], ask, tell)
    of_users = of_items = Described()
    if ask.task == "sequences":
        tell("sequences: of what is known of users and items only titles are kept" if users or items.more else "")
    else:
        of_items = describe(items.more, "item")  # before users: all who share a catalogue are to call them alike
        _tell_features(of_items, "item", tell)
        if users:
            of_users = _describe_users(users, log.keys["user"], columns.get("client"), of_items.features, tell)
    facts = {
        "source": ", ".join(path.name for path in ask.source), "partition": _partition(ask, columns), "split": ask.split,
        "positive": ask.positive, "columns": columns, "counted": {**counted._asdict(), **counts}, "told": tell.lines,
    }  # fmt: skip
    ready = Ready(log, items, shares, of_users, of_items, ask.site is not None, ask.seed, facts)
    if ask.task == "ratings":
        return write_ratings(out, ready, ask.split or "", ask.share)
    if ask.task == "sequences":
        return write_sequences(out, ready)
    negatives = (NEGATIVES if of_items.features else 0) if ask.negatives is None else ask.negatives
    return write_pairs(out, ready, test, negatives, ask.candidates, tell)


def _checked(ask: Ask) -> Ask:
    """Make sure that what is asked for goes together; fill in what follows from the rest.

    Raises:
        DataError: it does not; all that does not is told.
    """
    named = {ATOMIC[path.suffix]: path for path in ask.source if path.suffix in ATOMIC}
    column = ask.columns.get("client") if ask.columns.get("client") != NONE else None
    asked = [f"--{name}" for name in ("partition", "clients") if getattr(ask, name) is not None]
    mistakes = {
        "--source: name a file of interactions": len(named) == len(ask.source),
        f"--task {ask.task}: there are {', '.join(TASKS)}": ask.task not in TASKS,
        f"--split {ask.split}: there are {', '.join(SPLITS)}": ask.split not in (None, *SPLITS),
        '--task ratings: say which ratings are positive: --positive ">= 4"': ask.task == "ratings" and ask.positive is None,
        f"--split {ask.split}: of sequences each user's last item is held out; leave it out": ask.task == "sequences"
        and ask.split not in (None, "leave-one-out"),
        f"--split {ask.split}: ratings are split by time or ratio": ask.task == "ratings" and ask.split == "leave-one-out",
        f"--share {ask.share:g}: must be between 0 and {0.5 if ask.task == 'ratings' else 1}": not 0 < ask.share < (0.5 if ask.task == "ratings" else 1),
        f"--core {ask.core}: must be 0 or more": ask.core < 0,
        f"--negatives {ask.negatives}: must be 0 or more": (ask.negatives or 0) < 0,
        "--items: --catalogue says what is known of items already; leave one out": bool(ask.catalogue and (ask.items or "items" in named)),
        f"--site {ask.site}: all lines are of that client; leave {', '.join(asked) or '--client'} out": bool(ask.site and (asked or column)),
        f"--client {column}: the column says who is whose; leave {', '.join(asked)} out": bool(column and asked and not ask.site),
        f"--partition {ask.partition}: needs a column of zip codes in --users FILE; use iid or quantity": ask.partition in ("zipcode", "dirichlet")
        and not (ask.users or "users" in named),
    }  # fmt: skip
    if wrong := [mistake for mistake, is_so in mistakes.items() if is_so]:
        raise DataError("\n".join(wrong))
    stream(ask.seed)
    return replace(
        ask, source=[path for path in ask.source if path.suffix not in ATOMIC], users=ask.users or named.get("users"),
        items=ask.items or named.get("items"), split=ask.split or TASKS[ask.task],
    )  # fmt: skip


def _read(ask: Ask, users: Facts | None, listed: Catalogue | None, tell: Told) -> tuple[dict[str, str], Log, Counted]:
    """Read the interactions; return the columns of the last file, by role, too."""
    opened = [_opened(path, ask, users, tell) for path in ask.source]
    for role in ("client", "time"):
        lacking = [source.path for source, columns in opened if role not in columns]
        if lacking and len(lacking) < len(opened):
            raise DataError(
                f"--{role}: {lacking[0]} has no such column, and other files have; name it, or --{role} {NONE}"
            )
    unrated = [source.path for source, columns in opened if "rating" not in columns]
    if unrated and ask.positive is not None:
        raise DataError(
            f"--positive {ask.positive!r}: {unrated[0]} has no column that is known as ratings; name it: --rating COLUMN"
        )
    condition = None if ask.positive is None else Condition.read(ask.positive)
    known = {key: k for k, key in enumerate(listed.keys)} if listed else None
    log, counted = read_log(opened, condition, known)
    who = "a user, an item or a client" if len(log.client) else "a user or an item"
    why = (f"without {who}", "without a rating", "without a time")
    left_out = ", ".join(f"{count:,} {what}" for count, what in zip(counted[1:], why, strict=True) if count)
    tell(f"lines: {counted.lines:,}" + (f"; left out: {left_out}" if left_out else ""))
    if not len(log):
        raise DataError(f"{', '.join(map(str, ask.source))}: holds no interaction")
    if ask.site:
        log = replace(log, client=np.zeros(len(log), np.int32), keys={**log.keys, "client": [ask.site]})
    return opened[-1][1], log, counted


def _opened(path: Path, ask: Ask, users: Facts | None, tell: Told) -> tuple[Source, dict[str, str]]:
    """Look at a file of interactions; return it and its columns, by role."""
    named = {role: name for role, name in ask.columns.items() if name is not None}
    source = Source(path, ask.hints, (*ALL_NAMES, *named.values()))
    tell(f"{path.name}: {source.told}")
    dealt = ask.partition or ask.clients or ask.site  # then no column needs to say who is whose
    wanted = [role for role in ("user", "item", "rating", "time", *([] if dealt else ["client"])) if role not in named]
    given = {role: name for role, name in named.items() if name != NONE}
    if users is not None and given.get("client", "") in users.source.names:
        del given["client"]
    columns, guessed = columns_of(source, given, wanted)
    if ask.positive is None:
        _check_meaning(source, columns)
    roles = (f"{role} {name!r}{' (guessed)' * (role in guessed)}" for role, name in columns.items())
    looked = "" if "rating" not in columns or ask.positive else "; every line counts, whatever its rating"
    tell(f"columns: {', '.join(roles)}{looked}")
    return source, columns


def _check_meaning(source: Source, columns: Mapping[str, str]) -> None:
    """Make sure that every line may count as taken.

    Raises:
        DataError: some have a rating that hardly means so.
    """
    low = [cell for cell in source.column(columns["rating"]) if cell.strip() in NO] if "rating" in columns else []
    if low:
        raise DataError(
            f"{source.path}: column {columns['rating']!r} holds {low[0]!r}: was such an item taken? Say which were, by"
            f' --positive ">= 1", or --rating {NONE} if all were'
        )


def _facts(path: Path, role: str, hints: Hints, tell: Told) -> Facts:
    """Read a file about users or items; its keys are in the column of the usual name, else in the first."""
    source = Source(path, hints, (*ALL_NAMES, "item", "key"))
    key = column_of(source, role) or source.names[0]
    facts = Facts(source, key)
    tell(f"{path.name}: {source.told}; {len(facts.keys):,} {role}s by {key!r}")
    tell(facts.told)
    return facts


def _listed(path: Path, hints: Hints, tell: Told) -> Catalogue:
    """Return the items that others use, too: as they were prepared, or any list of them."""
    if {"item", "key"} <= set(Source(path, hints, ("item", "key")).names):
        found = Catalogue.read(path)
        if not len(found) or found.ids[-1] != len(found) - 1:
            raise DataError(
                f"{path}: column 'item' does not run from 0 without a gap; use items.csv as it was prepared"
            )
        tell(f"{path.name}: {len(found):,} items, as they were prepared")
        return found
    facts = _facts(path, "item", hints, tell)
    return _catalogue(facts, facts.keys, tell)


def _items_of(keys: Sequence[str], ask: Ask, tell: Told) -> Catalogue:
    """Return the items of the log, with what a file says of them."""
    if ask.items is None:
        return Catalogue(np.arange(len(keys)), keys)
    facts = _facts(ask.items, "item", Hints(encoding=ask.hints.encoding), tell)
    if lacking := facts.lacking(keys):
        tell(f"items: {lacking:,} of {len(keys):,} have no line in {ask.items.name}")
    return _catalogue(facts, keys, tell)


def _catalogue(facts: Facts, keys: Sequence[str], tell: Told) -> Catalogue:
    """Return items with their titles: of the usual name, else the first column of texts that are nearly all different."""
    title = column_of(facts.source, "title") or next((name for name in facts.columns if facts.names_each(name)), None)
    titles = None if title is None else facts.cells(title, keys)
    tell("" if title is None else f"titles: column {title!r} (guessed)")
    others: dict[str, list[str]] = {}
    for column in (column for column in facts.columns if column != title):
        others[name_of(column, "item", {*OWN, *others})] = facts.cells(column, keys)
    return Catalogue(np.arange(len(keys)), keys, titles, others)


def _split(log: Log, ask: Ask, all_items: bool, tell: Told) -> tuple[np.ndarray[Any, np.dtype[np.bool_]], Log]:
    """Tell which lines are held out; users whose lines all come after the cut are left out."""
    if ask.task != "pairs":
        return np.zeros(len(log), np.bool_), log
    test, kept = held_out(log, ask.split or "", ask.share, np.random.default_rng((ask.seed, 2)))
    if not kept.all():
        lost = len(log.keys["user"])
        test, log = test[kept], log.at(kept).compact(all_items)
        lost -= len(log.keys["user"])
        tell(f"split by time: {int((~kept).sum()):,} lines of {lost:,} users who have none before the cut are left out")
    if not len(log.time) and ask.split == "leave-one-out":
        tell("leave-one-out: no column tells the time, so each user's last line in the files is held out")
    return test, log


def _shares(log: Log, ask: Ask, columns: dict[str, str], users: Facts | None) -> dict[str, Ids]:
    """Deal users out to clients."""
    column = ask.columns.get("client", NONE) or NONE
    if users is not None and column != NONE and not len(log.client):
        columns["client"] = column_of(users.source, "client", column) or column
        log = clients_told_by(users.cells(columns["client"], log.keys["user"]), log, column)
    if len(log.client):
        return users_of_clients(log)
    kind, count = ask.partition or "iid", len(log.keys["user"])
    zip_codes: list[str] = []
    if kind in ("zipcode", "dirichlet") and users is not None:
        zip_column = column_of(users.source, "zip")
        if zip_column is None:
            raise DataError(
                f"--partition {kind}: {ask.users} has no column that is known as zip codes; use iid or quantity"
            )
        zip_codes = users.cells(zip_column, log.keys["user"])
    nobody = np.zeros(0, np.int64)
    everyone = Interactions(nobody, nobody, count, 1, nobody, nobody, None, "", zip_codes)
    clients = min(CLIENTS, count) if ask.clients is None else ask.clients
    return dict(clients_of(everyone, Split(kind, clients, ask.alpha), np.random.default_rng((ask.seed, 3))))


def _partition(ask: Ask, columns: Mapping[str, str]) -> str:
    return "site" if ask.site else columns.get("client") or ask.partition or "iid"


def _describe_users(
    users: Facts, keys: Sequence[str], client: str | None, of_items: Collection[str], tell: Told
) -> Described:
    if lacking := users.lacking(keys):
        tell(f"users: {lacking:,} of {len(keys):,} have no line in {users.source.path.name}")
    apart = (client, column_of(users.source, "zip"))  # who is where is no taste
    found = describe({name: users.cells(name, keys) for name in users.columns if name not in apart}, "user", of_items)
    _tell_features(found, "user", tell)
    return found


def _tell_features(found: Described, side: str, tell: Told) -> None:
    for column, what in found.told.items():
        tell(f"{side} column {column!r}: {what}")
