"""Power-of-choice: of some clients drawn by data share, those with the highest loss."""

import math

from fedps.coordinator.history import last_loss
from fedps.coordinator.selectors.base import Answer, ClientSelectorBase, draw


class PowerOfChoice(ClientSelectorBase):
    """Biased selection of Cho, Wang and Joshi, "Towards Understanding Biased Client Selection", AISTATS 2022.

    Each round a candidate set A of d clients is drawn without replacement, client k with probability p_k, its share of
    the samples; the m of them with the highest local loss F_k(w) train. d = m is drawing by samples, d = N is greedy.

    F_k is what k reported of its last training, as in the paper's π_rpow-d, which asks for no extra evaluation; a client
    that has none counts as infinite, so that each is heard once.

    Settings: d is `selector.candidates` (2 m if left out), m is `clients_per_round`.
    """

    def select(self) -> Answer:
        """Return JOIN for the m candidates of the highest loss."""
        clients = sorted(self.clients_info)
        shares = [self.clients_info[c].samples for c in clients]
        drawn = draw(self.draws(), shares, max(self.count, self.job.selector.candidates or 2 * self.count))
        losses = {clients[k]: last_loss(self.history.get(clients[k], ())) for k in drawn}
        by_loss = sorted(losses, key=lambda c: -math.inf if (loss := losses[c]) is None else -loss)  # ties: as drawn
        return dict.fromkeys(by_loss[: self.count], "JOIN")
