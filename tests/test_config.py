"""Configs refuse what they do not know, and say what was meant."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest

from castor.config import from_dict, override, to_dict


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.1
    name: Literal["a", "b"] = "a"


@dataclass(frozen=True, kw_only=True)
class Outer:
    steps: int = 10
    ratio: float | None = None
    levels: tuple[int, ...] = (8, 5)
    flag: bool = True
    text: str = ""
    inner: Inner = field(default_factory=Inner)


def test_round_trip() -> None:
    config = Outer(steps=3, ratio=0.5, levels=(1, 2, 3), inner=Inner(name="b"))
    assert from_dict(Outer, to_dict(config)) == config


def test_override_reads_by_type() -> None:
    config = override(
        Outer(),
        ["steps=5", "ratio=1e-3", "levels=7,7,7", "flag=false", "text=15", "inner.name=b", "inner.rate=2"],
    )
    assert config == Outer(
        steps=5, ratio=1e-3, levels=(7, 7, 7), flag=False, text="15", inner=Inner(name="b", rate=2.0)
    )
    assert override(Outer(ratio=1.0), ["ratio=none"]).ratio is None


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("stepz=5", "did you mean 'steps'"),
        ("inner.rat=1", "did you mean 'inner.rate'"),
        ("steps=half", "steps='half' should be int"),
        ("steps=true", "should be int"),
        ("inner.name=c", "not one of"),
        ("steps", "not of the form key=value"),
        ("steps.x=1", "plain value"),
    ],
)
def test_mistakes_are_named(assignment: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        override(Outer(), [assignment])


def test_unknown_key_in_a_dict_is_an_error() -> None:
    with pytest.raises(ValueError, match="did you mean 'inner.rate'"):
        from_dict(Outer, {"inner": {"rates": 1.0}})
