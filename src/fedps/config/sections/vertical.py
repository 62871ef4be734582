"""Vertical training: parties that hold different features of the same samples, and the network that they share."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from fedps.config.sections import Count, Fraction, Section, Whole, Word, word
from fedps.config.sections.features import Feature

LINE = "@line"  # in place of an id's column
VerticalNetwork = Literal["MLP", "DeepFM", "DCNv2", "TwoTower", "own"]
Alone = Literal["active", "passive", "joined"]


def several(value: Any) -> Any:
    """Take one value for a list of one."""
    return value if isinstance(value, list | tuple) else [value]


Files = Annotated[tuple[Path, ...], Field(min_length=1), BeforeValidator(several)]
Words = Annotated[tuple[Word, ...], Field(min_length=1), BeforeValidator(several)]


class Ids(Section):
    """How both sides write the ids that samples are matched by, before they are blinded."""

    blanks: Annotated[Literal["strip", "keep"], BeforeValidator(word)] = Field(
        "strip", description="strip: blanks around an id's text do not count"
    )
    case: Annotated[Literal["keep", "fold"], BeforeValidator(word)] = Field(
        "keep", description="fold: capital and small letters are the same"
    )
    psi_key: Word | None = Field(
        None, description="a word that both sides know: ids are hashed with it, so that others cannot guess them"
    )


class Protection(Section):
    """What keeps the other side from reading labels out of gradients, and features out of what is sent."""

    labels: Annotated[Literal["none", "max_norm", "marvell", "label_dp", "frozen"], BeforeValidator(word)] = Field(
        "none",
        description="noise on the gradients that the active party sends back; frozen: zeros instead of gradients, so that passive"
        " parties stay as they were drawn",
    )
    leakage: Annotated[Fraction, Field(gt=0)] = Field(
        0.03,
        description="marvell, label_dp: bound of the sum of both KL divergences between the gradients of the two classes, in"
        " each epoch",
    )
    activations: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = Field(
        0.0, description="noise on what passive parties send: so many standard deviations of it"
    )


class Vertical(Section):
    """What all parties of a vertical job must agree on, but for the address."""

    active: Word = Field(description="the party that has the label")
    passive: Annotated[tuple[Word, ...], Field(min_length=1, max_length=2), BeforeValidator(several)] = Field(
        description="the parties that have features alone, in the order in which the network takes them"
    )
    address: Word = Field(
        "127.0.0.1:0",
        description="host:port where the active party listens, and the others dial; each its own way there",
    )
    network: Annotated[VerticalNetwork, BeforeValidator(word)] = Field(
        "MLP", description="the built-in network, or own: parties' bottom and top name classes"
    )
    bottom_units: tuple[Count, ...] = Field(
        (64, 32), min_length=1, description="MLP: sizes of each party's layers; the last is what it sends of a sample"
    )
    loss: Annotated[Literal["bce", "mse"], BeforeValidator(word)] = Field(
        "bce", description="cross-entropy of a binary label, squared error of a real one"
    )
    train_batch_size: Count = Field(1024, description="samples of a batch")
    epochs: Count = Field(3, description="passes over the common samples, at most")
    patience: Whole = Field(
        0,
        description="epochs without a better held-out AUC (mse: RMSE) after which training ends; 0: all epochs are trained",
    )
    holdout: Annotated[Fraction, Field(lt=1)] = Field(
        0.2,
        description="share of the common samples that is held out, drawn by the seed; unused where there is test_data",
    )
    seed: Whole = Field(0, description="of the weights, of the order of batches, and of what is held out")
    in_flight: Annotated[Count, Field(le=64)] = Field(
        1,
        description="batches under way at once: what a passive party sends lacks the gradients of up to one fewer; 1: as if"
        " all were in one place",
    )
    wire: Annotated[Literal["none", "fp16", "bf16", "int8"], BeforeValidator(word)] = Field(
        "none", description="precision of what is sent in training"
    )
    checkpoint_every: Whole = Field(
        0, description="steps between two moments from which parties go on after a death; 0: the ends of epochs alone"
    )
    lift: Annotated[tuple[Annotated[Alone, BeforeValidator(word)], ...], BeforeValidator(several)] = Field(
        ("active",),
        description="what is trained besides, to compare: the active party alone (which predicts while others are away), what"
        " passive features tell alone, all joined in one place (`fedps vertical run` alone, where all files are)",
    )
    restarts: Whole = Field(
        3, description="times that `fedps vertical run` starts a party again that has died, later each time; 0: never"
    )
    step_timeout: Annotated[float, Field(gt=0, le=86400)] = Field(
        60.0, description="seconds that a party waits for another in the middle of its work"
    )
    start_timeout: Annotated[float, Field(gt=0, le=86400)] = Field(
        60.0, description="seconds that parties wait for each other at the start, and for one that died"
    )


class Party(Section):
    """What one party has; nobody else sees it."""

    data: Files = Field(description="file, or files, of its samples: columns by name")
    test_data: Files | None = Field(
        None,
        description="held-out samples in files of their own; left out: a share of the common ones (vertical.holdout)",
    )
    id: Words = Field(
        ("id",),
        description='column, or columns, by which samples are matched; "@line": a sample is known by its file\'s name and its'
        " number in it, where all parties have files of the same lines",
    )
    pipe_command: Word | None = Field(
        None,
        description="a shell command that is given each file and prints MultiSlot text, a slot a feature in their order; run with"
        ' --allow-commands alone, and needs id: "@line"',
    )
    features: dict[str, Feature] = Field(
        {}, description="what it knows of a sample; the active party's label with them"
    )
    secret: Word | None = Field(
        None,
        description="a word that this party alone knows, of which its weights are drawn too: who can draw them again reads"
        " features out of what is sent first; left out: `fedps vertical party` draws one, and keeps it in the party's folder,"
        " and under `fedps vertical run` weights follow from the job's seed",
    )
    bottom: Word | None = Field(None, description='own: its part of the network, "module.Class" beside the job file')
    top: Word | None = Field(None, description='own, active: what joins all parts, "module.Class" beside the job file')
