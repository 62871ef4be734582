"""Work that takes long, done beside a server's loop, which is told in its own turn how it went."""

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
