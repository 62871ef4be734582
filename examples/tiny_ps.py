"""The whole idea of a federated parameter server in one file: a dict for the server, a loop for the clients.

Two owners of data train one matrix factorization. Item rows are shared through the server; user rows never leave
their client. Mode sync: all pull, each computes the gradient of one batch, the server applies the mean. The numbers
are those of the fedps package on the same data (a test compares them).

    python examples/tiny_ps.py
"""

import numpy as np

from fedps.table.rules import initial_rows
from fedps.types import Init, TableSpec

USERS, ITEMS, DIM, RATE, BATCH = 20, 15, 4, 0.5, 16
START = Init("normal", 0.0, 0.1)


def start_row(table: str, rows: int, key: int) -> np.ndarray:
    """A row's start depends on nothing but the table's name and the id: no matter who asks first, or when."""
    start: np.ndarray = initial_rows(TableSpec(table, "sparse", (rows, DIM), init=START), np.array([key]))[0].copy()
    return start


class Server:
    """Rows by id, made when first asked for."""

    def __init__(self) -> None:
        self.rows: dict[int, np.ndarray] = {}

    def pull(self, keys: np.ndarray) -> dict[int, np.ndarray]:
        for key in map(int, keys):
            if key not in self.rows:
                self.rows[key] = start_row("item.weight", ITEMS, key)
        return {int(k): self.rows[int(k)] for k in keys}

    def push(self, gradients: list[dict[int, np.ndarray]]) -> None:
        """Apply the mean over clients; a client that did not touch a row counts as zero."""
        for key in set().union(*gradients):
            total = sum(g[key] for g in gradients if key in g)
            self.rows[key] = self.rows[key] - RATE * total / len(gradients)


class Client:
    """An owner of data, with private rows for its own users."""

    def __init__(self, samples: np.ndarray) -> None:
        self.samples = samples  # int64[n, 3]: user, item, label
        self.users = {int(u): start_row("user.weight", USERS, int(u)) for u in np.unique(samples[:, 0])}

    def batch(self, number: int) -> np.ndarray:
        return self.samples[number * BATCH : (number + 1) * BATCH]

    def step(self, batch: np.ndarray, items: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Train the private rows; return the gradient of the shared ones, the only thing that goes out."""
        of_items: dict[int, np.ndarray] = {}
        of_users: dict[int, np.ndarray] = {}
        for user, item, label in batch.tolist():
            u, i = self.users[user], items[item]
            error = (1 / (1 + np.exp(-(u @ i))) - label) / len(batch)  # of the mean cross-entropy
            of_items[item] = of_items.get(item, 0) + error * u
            of_users[user] = of_users.get(user, 0) + error * i
        for user, gradient in of_users.items():
            self.users[user] = self.users[user] - RATE * gradient
        return of_items


def train(clients: list[Client], epochs: int) -> Server:
    """All clients step together; here every client has equally many whole batches."""
    server = Server()
    for _ in range(epochs):
        for number in range(len(clients[0].samples) // BATCH):
            gradients = []
            for client in clients:
                batch = client.batch(number)
                gradients.append(client.step(batch, server.pull(np.unique(batch[:, 1]))))
            server.push(gradients)
    return server


def make_clients(seed: int = 0) -> list[Client]:
    """Two clients with ten users each, 64 samples each."""
    rng = np.random.default_rng(seed)
    clients = []
    for k in range(2):
        user = rng.integers(10 * k, 10 * k + 10, 64)
        item = rng.integers(0, ITEMS, 64)
        clients.append(Client(np.column_stack([user, item, (user + item) % 2])))
    return clients


def loss(server: Server, clients: list[Client]) -> float:
    """The mean cross-entropy over all samples."""
    losses = []
    for client in clients:
        for user, item, label in client.samples.tolist():
            score = client.users[user] @ server.pull(np.array([item]))[item]
            losses.append(np.log1p(np.exp(-score if label else score)))
    return float(np.mean(losses))


if __name__ == "__main__":
    owners = make_clients()
    print(f"before: {loss(Server(), owners):.4f}")
    shared = train(owners, 40)
    print(f"after:  {loss(shared, owners):.4f}; the server knows {len(shared.rows)} items and no user")
