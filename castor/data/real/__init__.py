"""Real data: every set of a data folder that can be asked about, as examples, chosen by licence class.

It leaves out sets that only serve similarity search (no answer is said) and those of offensive content.
"""

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path

from castor.data.real.images import IMAGE_SOURCES
from castor.data.real.sounds import AUDIO_SOURCES
from castor.data.real.source import SPLITS, Source
from castor.data.real.texts import TEXT_SOURCES
from castor.data.real.videos import VIDEO_SOURCES

__all__ = ["LICENCES", "SOURCES", "SPLITS", "RealData", "Source"]

LICENCES = ("A", "B", "C")
SOURCES: tuple[type[Source], ...] = (*IMAGE_SOURCES, *AUDIO_SOURCES, *VIDEO_SOURCES, *TEXT_SOURCES)


class RealData:
    """The sets under a folder, by name. Without a folder, or with an absent one, it is empty: see `message`.

    `licences` defaults to the classes that a model to be shipped may be trained on: "A" permissive, "B"
    share-alike. "C" (none stated, research only, non-commercial) is for tests, experiments and scores.
    """

    def __init__(
        self,
        path: str | Path | None,
        licences: Sequence[str] = ("A", "B"),
        modalities: Sequence[str] | None = None,
    ) -> None:
        for licence in licences:
            if licence not in LICENCES:
                raise ValueError(f"licences must be among {LICENCES}, got {licence!r}")
        self.path = Path(path) if path else None
        self.sources: dict[str, Source] = {}
        for kind in SOURCES if self.path and self.path.is_dir() else ():
            assert self.path is not None
            source = kind(self.path, licences)
            wanted = modalities is None or set(kind.modalities) - {"text"} <= set(modalities)
            if wanted and source.folder.is_dir():
                self.sources[kind.name] = source

    @property
    def message(self) -> str:
        """What was found, or what to do where nothing was."""
        if self.sources:
            return f"{len(self.sources)} real sets in {self.path}"
        if self.path is None:
            return "no real data: name its folder (data=FOLDER, --data FOLDER) or set the variable CASTOR_DATA"
        state = "holds none of the known sets" if self.path.is_dir() else "is no folder"
        return f"no real data: {self.path} {state}"

    def __getitem__(self, name: str) -> Source:
        if name in self.sources:
            return self.sources[name]
        known = [kind.name for kind in SOURCES]
        if name in known:
            raise ValueError(f"the set {name!r} is not in {self.path}")
        near = difflib.get_close_matches(name, known, n=1)
        raise ValueError(f"no set is called {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))

    def __iter__(self) -> Iterator[Source]:
        """The sets that have items of an allowed licence to train on or to test with."""
        return (source for source in self.sources.values() if any(source.count(split) for split in SPLITS))
