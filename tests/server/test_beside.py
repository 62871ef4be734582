"""Works one after the other, each made in the caller's turn."""

from collections.abc import Iterator

from fedps.server.beside import Done, Work, at_once, in_turns


def test_many_works_that_are_done_at_once_nest_no_calls() -> None:
    done, ended = list[int](), list[Exception | None]()

    def works() -> Iterator[Work]:
        for number in range(5000):
            yield lambda number=number: done.append(number)  # type: ignore[misc]

    in_turns(at_once, works(), ended.append)
    assert done == list(range(5000)) and ended == [None]


def test_after_one_that_failed_none_is_asked_for() -> None:
    asked, ended = list[int](), list[Exception | None]()

    def works() -> Iterator[Work]:
        for number in range(5):
            asked.append(number)
            yield lambda number=number: [][number]  # type: ignore[misc]

    in_turns(at_once, works(), ended.append)
    assert asked == [0] and isinstance(ended[0], IndexError)


def test_the_next_work_is_made_when_the_last_has_ended() -> None:
    under_way, asked = list[tuple[Work, Done]](), list[int]()

    def works() -> Iterator[Work]:
        for number in range(2):
            asked.append(number)
            yield lambda: None

    ended = list[Exception | None]()
    in_turns(lambda work, done: under_way.append((work, done)), works(), ended.append)
    assert asked == [0]
    under_way.pop()[1](None)
    assert asked == [0, 1] and not ended
    under_way.pop()[1](None)
    assert ended == [None]
