"""FedCS: as many clients as fit into a round's deadline, the quickest to add first."""

from math import inf
from statistics import median

from fedps.config import Job
from fedps.config.sections.features import of_user, spaces
from fedps.config.sections.training import USED_BY
from fedps.coordinator.selectors.selector import Answer, ClientSelectorBase
from fedps.types import ClientId, ClientInfo

FLOAT, MIB = 4, 1 << 20  # bytes


class FedCS(ClientSelectorBase):
    """Selection of Nishio and Yonetani, "Client Selection for Federated Learning with Heterogeneous Resources", 2019.

    Algorithm 3: clients update at the same time and upload one after the other. With Θ the time when the last upload
    ends, adding client k moves it to Θ' = Θ + t_UL(k) + max(0, t_UD(k) - Θ). Greedily, the client with the least Θ' - Θ
    is added if Θ' is within T_round = `selector.deadline`, and dropped from the candidates otherwise.

    t_UD is the samples to train over the reported speed, t_UL the bytes of an upload over the reported bandwidth. What
    a client has not measured yet counts as the median of the others; in a round where nobody has, clients are drawn by
    chance, so that they are measured. If not even one client fits, the one of the least Θ' trains alone: a round needs
    one. `clients_per_round`, if it is set, limits the picks.
    """

    def select(self) -> Answer:
        """Return JOIN for those that fit."""
        if not any(info.compute_capacity > 0 for info in self.clients_info.values()):
            return self.by_chance()
        updates, uploads = self._update_seconds(), self._upload_seconds()
        added, left, end = list[ClientId](), sorted(self.clients_info), 0.0
        limit, most = self.job.selector.deadline or inf, self._most()
        while left and len(added) < most:
            client = min(left, key=lambda c: uploads[c] + max(0.0, updates[c] - end))
            left.remove(client)
            then = end + uploads[client] + max(0.0, updates[client] - end)
            if then <= limit or not added:
                added.append(client)
                end = then
        return dict.fromkeys(added, "JOIN")

    def _most(self) -> int:
        return self.count if self.job.runner.clients_per_round else len(self.clients_info)

    def _update_seconds(self) -> dict[ClientId, float]:
        """Return t_UD of each client."""
        runner = self.job.runner
        usual = median(i.compute_capacity for i in self.clients_info.values() if i.compute_capacity > 0)

        def seconds(info: ClientInfo) -> float:
            batches = runner.round_iterations
            samples = batches * runner.train_batch_size if batches else info.samples
            return samples / (info.compute_capacity or usual)

        return {client: seconds(info) for client, info in self.clients_info.items()}

    def _upload_seconds(self) -> dict[ClientId, float]:
        """Return t_UL of each client."""
        known = [i.bandwidth for i in self.clients_info.values() if i.bandwidth > 0]
        size = upload_bytes(self.job)
        return {c: size / (i.bandwidth or median(known)) if known else 0.0 for c, i in self.clients_info.items()}


def upload_bytes(job: Job) -> float:
    """Return what a client sends a round, at most: all rows of the shared tables of a built-in network, once."""
    hyper, runner = job.hyper_parameters, job.runner
    if job.selector.upload_mib is not None:
        return job.selector.upload_mib * MIB
    if runner.model is not None:
        return 0.0
    if hyper.mode in USED_BY["embedding_dim"]:
        return _upload_of_features(job)
    widths = {"mlp": hyper.fc_layers[0] // 2, "mf": hyper.mf_dim}
    used = {"NCF_MLP": ("mlp",), "NCF_GMF": ("mf",), "NCF_NeuMF": ("mlp", "mf")}[hyper.mode]
    rows = {"user": hyper.num_users, "item": hyper.num_items}
    private = [f"{part}_user.weight" for part in used] if runner.users_stay else runner.local_sparse or ()
    shared = [(part, of) for part in used for of in rows if f"{part}_{of}.weight" not in private]
    return float(sum(rows[of] * widths[part] * FLOAT for part, of in shared))


def _upload_of_features(job: Job) -> float:
    """Return what all rows of the shared tables of features take; those of an open space are not known before they come."""
    hyper, runner = job.hyper_parameters, job.runner
    widths = {"embedding": hyper.embedding_dim}
    widths |= {"DeepFM": {"linear": 1}, "MF": {"bias": 1}}.get(hyper.mode, {})
    total = 0
    for space in dict.fromkeys(spaces(job.inputs).values()):
        feature = job.inputs[space]
        rows = feature.rows if isinstance(feature.rows, int) else 0
        stays = runner.users_stay and of_user(space, feature)
        names = {part: f"{part}_{space}.weight" for part in widths}
        total += sum(rows * widths[p] for p, n in names.items() if not stays and n not in (runner.local_sparse or ()))
    return float(total * FLOAT)
