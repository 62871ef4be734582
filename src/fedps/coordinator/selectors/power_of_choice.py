"""Power-of-choice: of some clients drawn by data share, those with the highest loss."""

from math import inf

from fedps.coordinator.selectors.selector import Answer, ClientSelectorBase, Turns, draw


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
        losses = {clients[k]: _last_loss(self.history.get(clients[k], ())) for k in drawn}
        by_loss = sorted(losses, key=lambda c: -inf if (loss := losses[c]) is None else -loss)  # ties: as drawn
        return dict.fromkeys(by_loss[: self.count], "JOIN")


def _last_loss(turns: Turns) -> float | None:
    """Return the loss of a client's last training, None if there is none."""
    return next((t.loss for t in reversed(turns) if t.loss is not None), None)
