"""Which column says what: as one names them, else by what such columns are usually called, else by their order.

A guess is always said. A name that is given is meant: case, blanks and signs are looked past only where nothing fits better.
"""

import difflib
from collections.abc import Mapping, Sequence

from fedps.data.prepare.forms import Source, is_number, plain_name
from fedps.errors import DataError

USUAL = {
    "user": "user userid uid useridx customer customerid reviewer reviewerid visitor visitorid member memberid"
    " account accountid patient patientid person personid reader readerid viewer listener buyer session sessionid",
    "item": "item itemid iid movie movieid film filmid product productid asin parentasin isbn book bookid article articleid"
    " sku track trackid song songid artist artistid business businessid news newsid recipe recipeid game gameid anime animeid"
    " video videoid venue venueid poi drug drugid medicine course courseid goods goodsid",
    "rating": "rating ratings stars star score grade label click clicked liked preference overall reviewoverall bookrating",
    "time": "timestamp time date datetime ts unixreviewtime unixtime eventtime createdat created ratedat when reviewtime reviewdate orderdate purchasedate visitdate"
    " invoicedate watchedat startedat",
    "client": "client clientid hospital hospitalid shop shopid store storeid site siteid organisation organization tenant owner clinic branch",
    "title": "title name itemname itemtitle movietitle filmtitle productname producttitle booktitle songname",
    "zip": "zip zipcode zipcodes postal postalcode postcode plz",
}
NAMES = {role: tuple(words.split()) for role, words in USUAL.items()}
ALL_NAMES = tuple(name for names in NAMES.values() for name in names)
ENDS = {"user": ("userid", "customerid", "patientid"), "item": ("itemid", "productid", "movieid", "articleid")}
SECONDS = 1e8  # a number above is no rating: it is a time
MOST = 12  # columns that are listed in a message


def columns_of(
    source: Source, given: Mapping[str, str | None], wanted: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """Find the columns of a file of interactions.

    Args:
        source: the file.
        given: columns by role, `user`, `item`, …, as far as they were named.
        wanted: roles to guess where no column was named.

    Returns:
        The columns by role, and the roles that were guessed.

    Raises:
        DataError: a column is not there, or there is none for the user or the item; all at once.
    """
    named = {role: name for role, name in given.items() if name is not None}
    found, mistakes = {}, []
    for role, name in named.items():
        column = _meant(name, source.names)
        if column is None:
            mistakes.append(f"{source.path}: has no column {name!r}, given by --{role}; {_there(name, source.names)}")
        else:
            found[role] = column
    guessed = _by_name(source, found, wanted) if source.header else _by_place(source, found, wanted)
    found |= guessed
    missing = [role for role in ("user", "item") if role in wanted and role not in found]
    if missing and not mistakes:
        flags = " ".join(f"--{role} COLUMN" for role in missing)
        mistakes.append(
            f"{source.path}: which column is the {' and which the '.join(missing)}? {flags}; {_there('', source.names)}"
        )
    twice = [column for column in dict.fromkeys(found.values()) if list(found.values()).count(column) > 1]
    mistakes += [
        f"{source.path}: column {column!r} is named for {' and '.join(r for r, c in found.items() if c == column)}"
        for column in twice
    ]
    doubled = [column for column in found.values() if source.names.count(column) > 1]
    mistakes += [f"{source.path}: has two columns {column!r}; rename one" for column in doubled]
    if mistakes:
        raise DataError("\n".join(mistakes))
    return found, list(guessed)


def column_of(source: Source, role: str, given: str | None = None) -> str | None:
    """Return a file's column of one role, as it is named or usually called; None if there is none.

    Raises:
        DataError: it was named, and is not there.
    """
    if given is None:
        return _by_name(source, {}, [role]).get(role)
    return columns_of(source, {role: given}, [])[0][role]


def _by_name(source: Source, found: Mapping[str, str], wanted: Sequence[str]) -> dict[str, str]:
    guessed: dict[str, str] = {}
    plain = {plain_name(name): name for name in reversed(source.names)}
    for role in wanted:
        taken = {*found.values(), *guessed.values()}
        usual = [*NAMES[role], *(name for name in plain if name.endswith(ENDS.get(role, ())))]
        like = (plain[name] for name in usual if name in plain and plain[name] not in taken)
        if role not in found and (column := next(like, None)) is not None:
            guessed[role] = column
    return guessed


def _by_place(source: Source, found: Mapping[str, str], wanted: Sequence[str]) -> dict[str, str]:
    """Guess the columns of a file without names: user, item, then what is no more than a rating, and a time."""
    free = [name for name in source.names if name not in found.values()]
    guessed: dict[str, str] = {}
    for role in ("user", "item"):
        if role in wanted and role not in found and free:
            guessed[role] = free.pop(0)
    for name in free:
        cells = [cell for cell in source.column(name) if cell.strip()]
        if cells and all(map(is_number, cells)):
            role = "time" if max(map(float, cells)) > SECONDS or "rating" in guessed else "rating"
            if role in wanted and role not in found and role not in guessed:
                guessed[role] = name
    return guessed


def _meant(name: str, names: Sequence[str]) -> str | None:
    if name in names:
        return name
    like = [other for other in names if plain_name(other) == plain_name(name)]
    return like[0] if len(like) == 1 else None


def _there(name: str, names: Sequence[str]) -> str:
    """Say which columns there are, the nearest of them first."""
    by_plain = {plain_name(other): other for other in names}
    near = (
        [by_plain[plain] for plain in difflib.get_close_matches(plain_name(name), list(by_plain), 3, 0.5)]
        if name
        else []
    )
    told = ", ".join(map(repr, names[:MOST])) + (", …" if len(names) > MOST else "")
    return (f"nearest: {', '.join(map(repr, near))}; " if near else "") + f"there are {told}"
