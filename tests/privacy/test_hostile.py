"""R9: hostile files are told as what they are, and run nothing. Each attack would leave a canary file if it came through.

The control plants the same code where code is meant to be, in a network beside the job, and the canary must appear.
"""

import hashlib
import io
import json
import pickle
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from fedps.config import load_job
from fedps.data.prepare.movielens import prepare
from fedps.data.read.reader import read_samples
from fedps.errors import DataError, FedpsError, JobError
from fedps.models.build import build
from fedps.serving.export import export_run
from fedps.serving.infer import infer
from fedps.storage import snapshot
from tests.conftest import MakeJob


class Scene(NamedTuple):
    """Where an attack takes place: a folder, the file it would make, and a maker of jobs."""

    folder: Path
    canary: Path
    make_job: MakeJob


@pytest.fixture
def scene(tmp_path: Path, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> Scene:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return Scene(tmp_path, tmp_path / "canary", make_job)


def attack(text: str) -> Callable[[Scene], object]:
    """Load a job file of this text, in which CANARY stands for the canary's path."""

    def act(scene: Scene) -> object:
        path = scene.folder / "hostile.yaml"
        path.write_text(text.replace("CANARY", str(scene.canary)), encoding="utf-8")
        return load_job(path)

    return act


JOB_FILES = {
    "apply": "!!python/object/apply:os.system ['touch CANARY']",
    "new": "runner: !!python/object/new:pathlib.Path ['CANARY']",
    "name": "runner: {train_data_dir: !!python/name:os.system }",
    "module": "runner: {train_data_dir: !!python/module:antigravity }",
    "apply in an override's place": 'hyper_parameters: {num_users: !!python/object/apply:eval [\'open("CANARY", "w")\']}',
    "tuple": "runner: !!python/tuple [a]",
    "a tag of its own": "!<tag:yaml.org,2002:python/object/apply:os.system> ['touch CANARY']",
    "code as text": 'runner: {model: \'__import__("os").system("touch CANARY")\'}',
    "a pipe command": "runner: {pipe_command: 'touch CANARY'}",
    "anchors that double, thirty times": "\n".join(
        ["a0: &a0 [x, x]", *(f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]" for k in range(1, 30)), "runner: *a29"]
    ),
    "sections that nest": "runner: " + "{a: " * 2_000 + "1" + "}" * 2_000,
    "an anchor that holds itself": "runner: &a {local_sparse: *a}",
    "a merge of many": "runner: &r {epochs: 1}\nx: {<<: [*r, *r, *r]}",
    "a list, no sections": "- 1",
    "cut off": "runner: [",
    "a null byte": "runner: \0",
    "a huge number": "runner: {train_data_dir: x, epochs: 1e999}",
}


@pytest.mark.parametrize("case", JOB_FILES)
def test_a_hostile_job_file_is_a_mistake_that_is_told(case: str, scene: Scene) -> None:
    with pytest.raises(JobError) as told:
        attack(JOB_FILES[case])(scene)
    assert 20 < len(str(told.value)) < 10_000
    assert not scene.canary.exists()


EVIL = "open(CANARY, 'w').close()\nfrom torch import nn\nclass Net(nn.Module):\n    pass\n"


def plant(scene: Scene, *places: str) -> None:
    for place in places:
        path = scene.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(EVIL.replace("CANARY", repr(str(scene.canary))))


MODELS = [
    "os.system", "../evil.Net", "..evil.Net", "/evil.Net", "evil.Net", "here.evil.Net", "evil/.Net", "pickle.loads",
    "subprocess.Popen", "builtins.eval", "evil", "evil.py", "__main__.Net", "os.path", "a.b;import os", "ｅvil.Net",
]  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_a_model_path_takes_no_code_from_elsewhere(model: str, scene: Scene) -> None:
    plant(scene, "evil.py", "here/evil.py")  # above the job's folder, and in the current one
    (scene.folder / "jobs").mkdir()
    with pytest.raises(JobError, match=r"runner\.model"):
        build(scene.make_job(model=model, folder=scene.folder / "jobs"))
    assert not scene.canary.exists()


def test_the_control_code_beside_the_job_runs(scene: Scene) -> None:
    plant(scene, "jobs/evil.py")
    with pytest.raises(JobError, match='is missing the required "forward" function'):
        build(scene.make_job(model="evil.Net", folder=scene.folder / "jobs"))
    assert scene.canary.exists()


class Bomb:
    """What unpickling it would do."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self._canary), "w")


def tensors(header: object, payload: bytes = b"", declared: int | None = None) -> bytes:
    """Return a safetensors file with a header of our making."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if declared is None else declared) + text + payload


def floats(shape: list[int], start: int, end: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


def torch_pickle(canary: Path, new: bool) -> bytes:
    file = io.BytesIO()
    torch.save({"mlp_user.weight": Bomb(canary)}, file, _use_new_zipfile_serialization=new)
    return file.getvalue()


WEIGHTS: dict[str, Callable[[Path], bytes]] = {
    "a pickled .pt": lambda canary: torch_pickle(canary, new=True),
    "an old pickled .pt": lambda canary: torch_pickle(canary, new=False),
    "a bare pickle": lambda canary: pickle.dumps(Bomb(canary)),
    "a header longer than any file": lambda _: tensors({}, declared=1 << 62),
    "a header longer than this file": lambda _: tensors({}, declared=1 << 20),
    "a header of a hundred million bytes": lambda _: tensors(b"{" + b" " * 100_000_001 + b"}"),
    "tensors that overlap": lambda _: tensors({"a": floats([2], 0, 8), "b": floats([2], 4, 12)}, bytes(12)),
    "a tensor too large": lambda _: tensors({"a": floats([1 << 40], 0, 1 << 42)}, bytes(8)),
    "a size that overflows": lambda _: tensors({"a": floats([1 << 33, 1 << 33], 0, 8)}, bytes(8)),
    "a negative offset": lambda _: tensors({"a": floats([2], -8, 0)}, bytes(8)),
    "a hole between tensors": lambda _: tensors({"a": floats([1], 0, 4), "b": floats([1], 8, 12)}, bytes(12)),
    "a header that nests": lambda _: tensors(b"[" * 100_000),
    "a type that is none": lambda _: tensors({"a": floats([1], 0, 4) | {"dtype": "PICKLE"}}, bytes(4)),
    "text": lambda _: b"!!python/object/apply:os.system ['true']",
    "empty": lambda _: b"",
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_hostile_weights_are_told_and_run_nothing(case: str, scene: Scene) -> None:
    path = scene.folder / "weights.safetensors"
    path.write_bytes(WEIGHTS[case](scene.canary))
    with pytest.raises(FedpsError, match="weights"):
        infer(scene.make_job(), path)
    assert not scene.canary.exists()


@pytest.mark.parametrize("case", [case for case in WEIGHTS if "million" not in case])
def test_a_hostile_save_is_told_and_runs_nothing(case: str, scene: Scene) -> None:
    """The same bytes as a server's save, first alone, then with a manifest that vouches for them."""
    folder = scene.folder / "run" / "model" / "1"
    folder.mkdir(parents=True)
    payload = WEIGHTS[case](scene.canary)
    (folder / "server-0.safetensors").write_bytes(payload)
    for manifest in (payload[:1000], vouching(payload)):
        (folder / "server-0.json").write_bytes(manifest)
        with pytest.raises(DataError, match="server-0"):
            snapshot.load(folder, "server-0")
        with pytest.raises(FedpsError):
            export_run(scene.folder / "run", scene.folder / "out")
    assert not scene.canary.exists()


def vouching(payload: bytes) -> bytes:
    """Return a manifest whose checksums are right, as whoever can write files can make it."""
    spec = {"name": "a", "kind": "sparse", "shape": [4, 2]}
    manifest = {
        "format": snapshot.FORMAT, "sha256": hashlib.sha256(payload).hexdigest(), "facts": {"shards": 1},
        "tables": {"a": spec},
    }  # fmt: skip
    return json.dumps(manifest | {"check": snapshot._check(manifest)}).encode()


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "1" * 5_000, "NaN", "null", '{"clients": 1'], ids=lambda t: t[:6]
)
def test_a_manifest_that_nests_or_is_none_is_told(text: str, scene: Scene) -> None:
    (scene.folder / "s.json").write_text(text)
    with pytest.raises(DataError, match=r"s\.json"):
        snapshot.load(scene.folder, "s")


RATINGS = b"".join(b"%d::%d::5::%d\n" % (u, m, 100 * u + m) for u in range(1, 9) for m in range(1, 6))
USER_LINES = b"".join(b"%d::F::1::10::48067\n" % u for u in range(1, 9))


def archive(scene: Scene, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    path = scene.folder / "ml-1m.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # two members of one name are meant
        for name, payload in members:
            file.writestr(name, payload)
    return path


def link_to(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


def shrunk(path: Path) -> Path:
    """Let the archive's directory say that its one member is smaller than it is."""
    raw = bytearray(path.read_bytes())
    at = raw.rindex(b"PK\x01\x02")
    raw[at + 24 : at + 28] = (10).to_bytes(4, "little")
    path.write_bytes(raw)
    return path


def torn(path: Path) -> Path:
    """Cut off the archive's directory."""
    path.write_bytes(path.read_bytes()[:60])
    return path


ARCHIVES: dict[str, Callable[[Scene], Path]] = {
    "names that climb": lambda s: archive(s, ("../../canary", b"x"), ("../canary", b"x"), (str(s.canary), b"x")),
    "ratings that are a link": lambda s: archive(s, (link_to("ml-1m/ratings.dat"), b"/etc/passwd")),
    "ratings that are a pickle": lambda s: archive(s, ("ml-1m/ratings.dat", pickle.dumps(Bomb(s.canary)))),
    "a size that is a lie": lambda s: shrunk(archive(s, ("ml-1m/ratings.dat", RATINGS))),
    "no zip": lambda s: torn(archive(s, ("ml-1m/ratings.dat", RATINGS))),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_a_hostile_archive_is_told_and_writes_nothing(case: str, scene: Scene) -> None:
    source = ARCHIVES[case](scene)
    before = sorted(scene.folder.rglob("*"))
    with pytest.raises(DataError):
        prepare(scene.folder / "out", str(source))
    assert sorted(scene.folder.rglob("*")) == before


@pytest.mark.parametrize(
    "payload",
    [b"\x80\x04cos\nsystem\n.", b"1,2,1\n=cmd|'/c calc'!A1,2,1\n", b"1,2,1\n" + b"9" * 5_000 + b",1,1\n", b"\xff\xfe\0\0" * 99],
    ids=["pickle", "formula", "huge number", "other encoding"],
)  # fmt: skip
def test_hostile_samples_are_told_by_file_and_run_nothing(payload: bytes, scene: Scene) -> None:
    path = scene.folder / "0.csv"
    path.write_bytes(payload)
    with pytest.raises(DataError, match=r"0\.csv"):
        read_samples(path, 10, 10)


def test_the_control_the_pickles_make_the_canary_where_they_are_let(tmp_path: Path) -> None:
    bare, whole = tmp_path / "bare", tmp_path / "whole"
    pickle.loads(pickle.dumps(Bomb(bare))).close()
    loaded = torch.load(io.BytesIO(torch_pickle(whole, new=True)), weights_only=False)
    loaded["mlp_user.weight"].close()
    assert bare.exists()
    assert whole.exists()
