from fedps.config import Job, Allow
from fedps.client.shard import ClientData
from fedps.data.reader import client_files, read_samples
from fedps.errors import DataError
from fedps.types import ClientId


def read_client(job: Job, client: ClientId, allow: Allow = Allow(), report=None) -> ClientData:
    """Read a client's training samples, and its held-out ones where the job names a folder of them."""
    runner, hyper = job.runner, job.hyper_parameters
    files = client_files(runner.train_data_dir)
    if client not in files:
        raise DataError(
            f"runner.train_data_dir: no file of client {client!r} in {runner.train_data_dir}; there are {', '.join(files)}"
        )
    train = read_samples(files[client], hyper.num_users, hyper.num_items)
    test = None
    if runner.test_data_dir is not None:
        held_out = client_files(runner.test_data_dir).get(client)
        test = read_samples(held_out, hyper.num_users, hyper.num_items) if held_out else None
    return ClientData(train, test, client, runner.seed, runner.shuffle)
