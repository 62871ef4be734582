"""Which data files are whose: a file a client by its name, or all files dealt out to `worker_num` clients.

Files stand in natural order, so that every machine lists and deals them alike ("2" before "10"; the order of a folder's
own listing differs from host to host).
"""

import json
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import ValidationError

from fedps.config.job import Job
from fedps.config.mistakes import sentence
from fedps.config.sections.features import Feature
from fedps.errors import DataError, JobError

if TYPE_CHECKING:
    from fedps.types import ClientId  # a name for `str`; with numpy beside it, which a look at a job does without

Files = tuple[Path, ...]
Endings = tuple[str, ...]  # of names of data files
LINES: Endings = (".csv",)
TEXTS: Endings = (".csv", ".tsv", ".txt", ".libsvm", ".svm", ".libfm")
TABLES: Endings = (*TEXTS, *(f"{ending}.gz" for ending in TEXTS), ".parquet")  # read where the job states features
ANY: Endings = ("",)
MANIFEST = "manifest.json"
NEARLY = re.compile(
    r"(.+?)(?:\.csv(?:\.(?:gz|bz2|xz|zst|zip|7z))?|\.tsv)", re.IGNORECASE
)  # of a client's file, in all but form
COPY = re.compile(r"(.+?)(?: - Copy(?: \(\d+\))?| \(\d+\)| copy(?: \d+)?)(\.[^.]+)?")  # as file managers name them


def client_files_of(job: Job) -> "dict[ClientId, Files]":
    """Return each client's training files.

    Without `runner.split_file_list` a client is the stem of its one file. With it, files are dealt to `worker_num`
    clients in contiguous blocks, of which the first `files % worker_num` have one more; the clients are "0", "1", …,
    or the files' stems if there is one file a client.

    Raises:
        DataError: fewer files than clients, two files of one stem, or a folder that cannot be read.
    """
    runner = job.runner
    files = _listed(runner.train_data_dir, endings_of(job, "train"))
    count = runner.worker_num
    if not runner.split_file_list or count is None or count == len(files):
        return _by_stem(files, runner.train_data_dir)
    if count > len(files):
        raise DataError(
            f"runner.worker_num: {count}: {runner.train_data_dir} holds only {len(files)} files to deal out; use at"
            f" most {len(files)}, or leave runner.split_file_list out"
        )
    return _deal(files, [cast("ClientId", str(k)) for k in range(count)])


def test_files_of(job: Job) -> "dict[ClientId, Files]":
    """Return the held-out files of each client that has some; none without `runner.test_data_dir`.

    A held-out file belongs to the client that has the training file of the same stem. Dealt files
    (`split_file_list`) none of whose stems is known are dealt as the training files are.

    Raises:
        DataError: no held-out file belongs to a client; also as for `client_files_of`.
    """
    runner = job.runner
    if runner.test_data_dir is None:
        return {}
    owners = client_files_of(job)
    files = _listed(runner.test_data_dir, endings_of(job, "test"))
    of_stem = {_composed(file): client for client, mine in owners.items() for file in mine}
    if runner.split_file_list and len(files) >= len(owners) and not any(_composed(f) in of_stem for f in files):
        return _deal(files, list(owners))
    found: dict[ClientId, Files] = dict.fromkeys(owners, ())
    for file in files:
        if (stem := _composed(file)) in of_stem:
            found[of_stem[stem]] += (file,)
    if not any(found.values()):
        there = f"{files[0].name}{f' and {len(files) - 1} more' if files[1:] else ''}" if files else "no held-out file"
        names = ", ".join(list(owners)[:3]) + (", …" if len(owners) > 3 else "")
        raise DataError(
            f"runner.test_data_dir: {str(runner.test_data_dir)!r}: holds {there}, and nothing of clients {names}; name held-out"
            " files as the training files are named, or leave the key out to train without held-out samples"
        )
    return {client: mine for client, mine in found.items() if mine}


def clients_there(job: Job) -> list[str]:
    """Return the names of the training files, which are those of clients unless files are dealt out; natural order.

    A folder that cannot be looked into counts as empty: it is a mistake of its own, told by the check of folders.
    """
    runner = job.runner
    try:
        files = files_in(runner.train_data_dir, endings_of(job, "train"))
    except OSError:
        return []
    return [stem_of(file) for file in files]


def files_in(folder: Path, endings: Endings = LINES) -> list[Path]:
    """Return a folder's data files, those of some endings, in natural order; hidden files are nobody's.

    Raises:
        OSError: the folder cannot be looked into.
    """
    with os.scandir(folder) as entries:
        files = [Path(e.path) for e in entries if e.is_file() and not e.name.startswith(".")]
    return sorted((f for f in files if f.name.endswith(endings)), key=lambda f: (_natural(stem_of(f)), f.name))


def stem_of(file: Path) -> str:
    """Return a data file's name without its ending, of a packed one without both."""
    return file.name.removesuffix(".gz").rpartition(".")[0] if file.name.endswith(TABLES) else file.stem


def strange_entries(folder: Path, endings: Endings = LINES) -> dict[str, str]:
    """Return what may be meant for a client's file in a folder and is none, by name: why, and what to do.

    Raises:
        OSError: the folder cannot be looked into.
    """
    with os.scandir(folder) as entries:
        seen = {e.name: e for e in entries if not e.name.startswith(".")}
    of_csv = {name: entry for name, entry in seen.items() if name.endswith(endings)}
    found = {
        name: "is no .csv file as it is: unpack it, or rename it to .csv once it is lines user,item,label, or take it away"
        if endings == LINES
        else f"has none of the endings {', '.join(endings)}: pack it otherwise, or take it away"
        for name in seen.keys() - of_csv.keys()
        if (nearly := NEARLY.fullmatch(name)) and f"{nearly[1]}.csv" not in of_csv
    }
    for name, entry in of_csv.items():
        copied = COPY.fullmatch(name)
        if not is_utf8(name):
            found[name] = "has a name that is no UTF-8, in which reports and logs are written; rename it"
        elif not name.isprintable():
            found[name] = (
                "has a character in its name that cannot be seen, such as a line end or a no-break space; rename it"
            )
        elif entry.is_dir():
            if name.endswith(".csv"):
                found[name] = "is a folder; put its parts into one file of that name"
        elif not entry.is_file():
            found[name] = "leads to no file; mend the link, or take it away"
        elif copied and f"{copied[1]}{copied[2]}" in of_csv:
            found[name] = f"is a copy of {copied[1]}{copied[2]}, and would be a client of its own; take it away"
    return found


def is_utf8(text: str) -> bool:
    """Tell whether a text can be written; names of files that no UTF-8 stands for cannot."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def sizes_of_data(job: Job) -> dict[str, int]:
    """Return `num_users` and `num_items` as the manifest beside prepared data has them; empty where there is none."""
    manifest = manifest_of(job)
    sizes = {key: manifest.get(key) for key in ("num_users", "num_items")}
    return {key: size for key, size in sizes.items() if type(size) is int and size > 0}


def samples_of_data(job: Job) -> int:
    """Return how many training samples a client has on average by the manifest beside prepared data; 0 where none says so."""
    clients = manifest_of(job).get("clients")
    each = (
        [one.get("samples") for one in clients.values() if isinstance(one, dict)] if isinstance(clients, dict) else []
    )
    counts = [count for count in each if type(count) is int and count > 0]
    return sum(counts) // len(counts) if counts else 0


def features_of_data(job: Job) -> dict[str, Feature]:
    """Return the features that the manifest beside prepared data states; empty where there is none.

    Raises:
        JobError: they are none.
    """
    stated, found = manifest_of(job).get("features", {}), dict[str, Feature]()
    where = job.runner.train_data_dir.parent / MANIFEST
    if not isinstance(stated, dict) or not all(isinstance(one, dict) for one in stated.values()):
        raise JobError(f"{where}: features: say for each its keys, kind among them; prepare the data anew")
    for name, one in stated.items():
        try:
            found[name] = Feature.model_validate(one | {"optional": True})
        except ValidationError as error:
            wrong = [sentence({**each, "loc": ("features", name, *each["loc"])}) for each in error.errors()]
            raise JobError(f"{where}: {wrong[0]}; prepare the data anew") from error
    return found


def manifest_of(job: Job) -> dict[str, Any]:
    """Return what the manifest beside prepared data says; empty where there is none that can be read."""
    try:
        manifest = json.loads((job.runner.train_data_dir.parent / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # torn, or of somebody else: the files' ids are checked all the same
        return {}
    return manifest if isinstance(manifest, dict) else {}


def endings_of(job: Job, side: Literal["train", "test"]) -> Endings:
    """Return of which endings a side's files are: any, where the user's own class or command reads them."""
    runner = job.runner
    reader = runner.reader_type if side == "train" else runner.infer_reader_type
    if reader in ("DataLoader", "RecDataset") or (reader is not None and runner.pipe_command is not None):
        return ANY
    return TABLES if job.features else LINES


def _natural(stem: str) -> list[tuple[int, str]]:
    parts = re.split(r"([0-9]+)", stem)  # every other part is a number, in size before the next
    return [(int(p), p) if k % 2 else (0, p) for k, p in enumerate(parts)]


def _listed(folder: Path, endings: Endings) -> list[Path]:
    try:
        return files_in(folder, endings)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror or error}") from error


def _by_stem(files: Sequence[Path], folder: Path) -> "dict[ClientId, Files]":
    found: dict[str, tuple[ClientId, Path]] = {}
    for file in files:
        client = cast("ClientId", stem_of(file))
        if (stem := _composed(file)) in found:
            other = found[stem][1].name
            raise DataError(f"{folder}: {other} and {file.name} would both be of client {client!r}; rename one")
        found[stem] = client, file
    return {client: (file,) for client, file in found.values()}


def _composed(file: Path) -> str:
    """Return a file's stem as all systems write it: a Mac writes ü as u and two dots."""
    return unicodedata.normalize("NFC", stem_of(file))


def _deal(files: Sequence[Path], clients: "Sequence[ClientId]") -> "dict[ClientId, Files]":
    size, more = divmod(len(files), len(clients))
    cuts = [k * size + min(k, more) for k in range(len(clients) + 1)]
    return {client: tuple(files[cuts[k] : cuts[k + 1]]) for k, client in enumerate(clients)}
