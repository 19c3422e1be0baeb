"""What all models of the configuration share: how strict they are, how they say what is wrong, what patterns fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError

Problem = tuple[tuple[str | int, ...], str]  # where, below the value that is being validated, and what


def did_you_mean(word: object, known: Iterator[str] | tuple[str, ...] | list[str]) -> str:
    """`` Did you mean 'x'?``, or nothing where no known name is near."""
    by_folded = {name.casefold(): name for name in known}  # who writes FDI means fid
    near = get_close_matches(str(word).casefold(), by_folded, n=1)
    return f" Did you mean {by_folded[near[0]]!r}?" if near else ""


def raise_problems(problems: Iterable[Problem]) -> None:
    """One error for all problems below the value that is being validated; nothing where there are none."""
    found = list(problems)
    if found:
        text = "; ".join(f"{'.'.join(map(str, place))}: {message}" for place, message in found)
        raise PydanticCustomError("problems", "{text}", {"text": text, "problems": found})


def matches(patterns: Sequence[str] | None, *names: str) -> bool:
    """Whether any of the patterns fits one of these names of one thing; no patterns at all fit everything."""
    return patterns is None or any(fnmatchcase(name, pattern) for pattern in patterns for name in names)


def unmatched(patterns: Sequence[str] | None, what: str, names: Sequence[str] | None) -> Iterator[str]:
    """A sentence for each pattern that fits none of the names; none where these are not known."""
    for pattern in patterns or () if names is not None else ():
        if not any(fnmatchcase(name, pattern) for name in names or ()):
            yield f"no {what} is called {pattern!r}.{did_you_mean(pattern, list(names or ()))}"


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"expected a number, found {str(value).lower()}")
    return value


Whole = Annotated[int, BeforeValidator(_no_truth)]  # or else true and false count as 1 and 0
Number = Annotated[float, BeforeValidator(_no_truth)]


class Model(BaseModel):
    """Nothing unknown, and nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False)
