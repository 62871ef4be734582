"""Work that takes long, done beside a server's loop, which is told in its own turn how it went."""

import asyncio
from collections.abc import Callable, Iterator

Work = Callable[[], None]
Done = Callable[[Exception | None], None]
Beside = Callable[[Work, Done], None]  # lets work be done elsewhere, and says in the caller's own turn how it went


def at_once(work: Work, done: Done) -> None:
    """Do work here and now: where nobody else has to be answered meanwhile."""
    try:
        work()
    except Exception as error:
        done(error)
    else:
        done(None)


class InThread:
    """Lets work be done in a thread, so that the loop goes on; how it went is told in the loop's own turn."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, work: Work, done: Done) -> None:
        """Begin work, and call `done` when it has ended."""
        task = asyncio.get_running_loop().create_task(self._do(work, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self) -> None:
        """Wait until all work has ended, what follows on it too."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _do(self, work: Work, done: Done) -> None:
        try:
            await asyncio.to_thread(work)
        except Exception as error:
            done(error)
        else:
            done(None)


def in_turns(beside: Beside, works: Iterator[Work], done: Done) -> None:
    """Do works one after the other, each beside; each is made in the caller's own turn, when the one before has ended.

    Args:
        beside: does one.
        works: makes the next; none is asked for after one that failed.
        done: called at the end, with what went wrong or None.
    """
    ended = list[Exception | None]()  # how works ended that was not looked at yet: of one at most
    looking = False

    def look(error: Exception | None) -> None:
        nonlocal looking
        ended.append(error)
        if (
            looking
        ):  # a work that was done at once: the loop below goes on, where a call from here would nest ever deeper
            return
        looking = True
        while ended:
            failed, work = ended.pop(), None
            try:
                work = None if failed else next(works, None)
            except Exception as fault:
                failed = fault
            if work is None:
                done(failed)
                return
            beside(work, look)
        looking = False

    look(None)
