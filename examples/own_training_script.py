"""A training script of your own: the launcher starts it once for each role.

    fedps run examples/own_training_script.py -m examples/quickstart.yaml -- --warm-up 50

Servers and the coordinator live as built in. A worker's life has two steps replaced: `train` begins with a short round,
so that shared rows settle before private ones run ahead, and `infer` keeps the best NDCG in mind. What a worker prints is in
`log/workerlog.N`.
"""

from __future__ import annotations  # so that naming FLClient below loads torch in workers alone

import argparse

import fedps


class Steps:
    """Two steps of a worker's life.

    Args:
        warm_up: batches of the first round.
    """

    def __init__(self, warm_up: int) -> None:
        self.warm_up, self.best = warm_up, 0.0

    def train(self, client: fedps.FLClient) -> None:
        """Train the round: the first one is short, the others are as assigned."""
        told = client.assignment
        batches = self.warm_up if told.round == 1 else told.iterations
        client.trained = found = client.trainer.train(told.round, batches)
        print(f"round {told.round}: {found.samples} samples in {found.seconds:.1f} s, mean loss {found.loss:.4f}")

    def infer(self, client: fedps.FLClient) -> None:
        """Score the held-out samples as built in, and say whether they were ever ranked better."""
        client.callback_infer()
        found = client.evaluated
        if found is not None and found.users:
            ndcg = found.ndcg / found.users
            self.best = max(self.best, ndcg)
            print(f"round {client.assignment.round}: NDCG@10 {ndcg:.4f} over {found.users} users, best {self.best:.4f}")


def main() -> None:
    """Play the role that the launcher gave to this process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--warm-up", type=int, default=100, help="batches of the first round")
    given = parser.parse_args()
    role = fedps.init()
    if not role.is_worker():
        role.run()
        return
    client, steps = role.client(), Steps(given.warm_up)
    client.register_handlers("train", steps.train)
    client.register_handlers("infer", steps.infer)
    client.run()


if __name__ == "__main__":
    main()
