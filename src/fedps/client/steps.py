"""The steps of a client's life that a user may replace, and what scripts for the original keep with a client."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from fedps.errors import JobError

Key = Literal["initialize_model_params", "init_worker", "train", "infer", "save_model", "finish"]
KEYS: tuple[Key, ...] = get_args(Key)
Handler = Callable[..., Any]  # called with the client, or with nothing


class Steps:
    """A life of which each step can be replaced.

    Args:
        handlers: steps to replace, by their key.
    """

    def __init__(self, handlers: Mapping[Key, "Handler"]) -> None:
        self._handlers: dict[Key, Handler] = {}
        for key, handler in handlers.items():
            self.register_handlers(key, handler)

    def register_handlers(self, key: Key, handler: Handler) -> None:
        """Replace one step of the client's life; the default stays within reach as `client.callback_<key>()`.

        Args:
            key: one of `KEYS`.
            handler: called with this client, or without anything if it takes nothing.

        Raises:
            JobError: there is no such step.
        """
        if key not in KEYS:
            raise JobError(f"register_handlers: {key!r}: there is no such step; there are {', '.join(KEYS)}")
        self._handlers[key] = handler

    def set_basic_config(self, role_maker: Any, config: Any = None, metrics: Any = None) -> None:
        """Keep these for your own steps. A client that a script has made by itself gets its part of the run, too.

        Args:
            role_maker: what `fedps.init` returned.
            config: whatever your steps want; training itself goes by the job.
            metrics: the same.
        """
        self.role_maker, self.config, self.metrics = role_maker, config, metrics
        if not hasattr(self, "job"):
            role_maker.begin(self)

    def set_train_dataset_info(self, train_dataset: Any, train_file_list: Any) -> None:
        """Keep these for your own steps; the client's data is what the job names."""
        self.train_dataset, self.train_file_list = train_dataset, train_file_list

    def set_test_dataset_info(self, test_dataset: Any, test_file_list: Any) -> None:
        """Keep these for your own steps; held-out samples are those that the job names."""
        self.test_dataset, self.test_file_list = test_dataset, test_file_list

    def set_train_example_num(self, num: Any) -> None:
        """Keep this for your own steps; what is reported are the samples trained, as they are counted."""
        self.train_example_nums = num

    def _do(self, key: Key) -> None:
        handler = self._handlers.get(key) or getattr(self, f"callback_{key}")  # as overridden
        handler() if _takes_nothing(handler) else handler(self)


def _takes_nothing(handler: Callable[..., Any]) -> bool:
    try:
        inspect.signature(handler).bind()
    except TypeError:
        return False
    return not inspect.signature(handler).parameters or inspect.ismethod(handler)
