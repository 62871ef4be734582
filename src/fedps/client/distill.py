"""What a client learns from the others without any weights: soft targets for pairs of public users and items.

Each round it *digests* the public samples, with their labels, and the last round's pairs, with what the teacher made of
all clients' predictions; then it *revisits* its own data, as FedMD has it (Li & Wang, arXiv:1910.03581, algorithm 1); and
last it scores the round's pairs for the next teacher. A soft target is a label like any other, a probability in the
place of 0 or 1 (Hinton et al., arXiv:1503.02531, section 2).
"""

import math
import zlib

import numpy as np

from fedps.client.trainer import Signs
from fedps.config import Job
from fedps.data.public import Public
from fedps.data.samples import PAIRS, ClientData, Order
from fedps.errors import FedpsError
from fedps.training.learner import Learner
from fedps.training.rules import rates_at
from fedps.types import ClientId, Samples, State, Values, under, within
from fedps.wire.messages import Assignment

ORDER = zlib.crc32(b"fedps.client.distill")


class Distiller:
    """Trains and scores a learner on what is public.

    Args:
        job: the job; it names public samples.
        client: who learns.
        learner: its model; the public samples' ids are among its data's keys.
        public: the samples.
        signs: of life, to be given as it trains and scores.
    """

    def __init__(
        self, job: Job, client: ClientId, learner: Learner, public: Public, signs: Signs | None = None
    ) -> None:
        self._signs = signs or Signs(job.runner.step_timeout)
        self._job, self._client, self._learner, self._public = job, client, learner, public
        self._data = self._coded(public.samples, public.of_round(0))
        self._engine = learner.engine_on(self._data)
        self._targets = self._passes = 0  # soft targets there are, and passes so far
        self._of = 0  # the round that these are of

    def state(self) -> State:
        """Return what it goes on from, its soft targets among it."""
        targets = self._data.train.label[len(self._public.samples.label) :]
        own = {"passes": self._passes, "of": self._of, "targets": targets if self._targets else targets[:0]}
        return under({"own": own, "engine": self._engine.state()})

    def restore(self, state: State) -> None:
        """Go on from what `state` returned.

        Raises:
            FedpsError: the soft targets are of other public samples.
        """
        own = within(state, "own")
        self._passes = own["passes"]
        if own["of"]:
            self.take(own["of"], own["targets"])
        self._engine.restore(within(state, "engine"))

    def take(self, round_: int, targets: Values) -> None:
        """Take the teacher's soft targets for the pairs of a round, to be trained on from now on.

        Args:
            round_: whose pairs.
            targets: float32[S], probabilities.

        Raises:
            FedpsError: another number of targets than of pairs, or one that is no probability.
        """
        pairs, labelled = self._public.of_round(round_), len(self._public.samples.label)
        if len(targets) != len(pairs.user):
            raise FedpsError(
                f"{len(targets)} soft targets came, for {len(pairs.user)} public pairs of round {round_}: is"
                " distillation.public_data the same file everywhere?"
            )
        if not ((targets >= 0) & (targets <= 1)).all():  # NaN is neither
            raise FedpsError(
                f"soft targets of round {round_} lie outside [0, 1]: is the coordinator what it should be?"
            )
        for feature in PAIRS:
            self._data.train.ids(feature)[labelled:] = pairs.ids(feature)
            self._slots_of[feature][labelled:] = self._slots(feature, pairs)
        self._data.train.label[labelled:] = targets
        self._targets, self._of = len(targets), round_

    def digest(self, due: Assignment) -> None:
        """Train on all public samples, and on the pairs that there are targets for, `passes` times.

        Batches take the rate of the round's middle.

        Raises:
            FedpsError: the loss is not finite; names client and round.
        """
        runner, optimizer = self._job.runner, self._job.hyper_parameters.optimizer
        size = due.batch_size or runner.train_batch_size
        for _ in range(self._job.distillation.passes):
            order = self._order()
            middle = np.full(-(-len(order) // size), due.round - 0.5)
            rates = rates_at(optimizer, runner.epochs, middle, due.learning_rate)
            loss = self._signs.train(self._engine.train, order, size, rates).losses[-1]
            if not math.isfinite(loss):
                raise FedpsError(
                    f"client {self._client!r}: the loss on public samples is {loss} in round {due.round}; lower"
                    " hyper_parameters.optimizer.learning_rate"
                )

    def score(self, round_: int) -> Values:
        """Return the logits of a round's pairs, float32[S]."""
        pairs = self._public.of_round(round_)
        for table in self._learner.tables.values():
            table.settle()
        return self._engine.score(pairs, {f: self._slots(f, pairs) for f in PAIRS}, self._signs.give)

    def _coded(self, samples: Samples, pairs: Samples) -> ClientData:
        """Return samples, and after them room for a round's pairs, coded for the learner's tables."""
        both = Samples.joined([samples, pairs])
        data = ClientData(both, None, self._client, self._job.runner.seed, shuffle=False)
        data.keys = self._learner.data.keys
        self._slots_of = {feature: self._slots(feature, both) for feature in PAIRS}
        data.slots = dict(self._slots_of)
        return data

    def _slots(self, feature: str, samples: Samples) -> Order:
        slots: Order = np.searchsorted(self._learner.data.keys[feature], samples.ids(feature)).astype(np.int32)
        return slots

    def _order(self) -> Order:
        """Return the next pass's order, from a stream of seed, client and pass."""
        self._passes += 1
        stream = (self._job.runner.seed, zlib.crc32(self._client.encode()), self._passes, ORDER)
        samples = len(self._public.samples.label) + self._targets
        return np.random.default_rng(stream).permutation(samples).astype(np.int32)
