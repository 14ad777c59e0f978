"""An index as a Lance table, for what outgrows a machine: object storage, many readers, search on other machines.

    export(index, "s3://bucket/found/things.lance")
    lancedb.connect("s3://bucket/found").open_table("things").search(vector).where("kind = 'image'").limit(10)

A row is a piece, with the first of its files and the names of the others. Vectors have length 1, so that the cosine is
1 - distance / 2 of LanceDB's squared L2. Beside the rows stand, in the schema's metadata, the model that made them: its
`Index.embedder.question` makes the vectors that may be asked with. LanceDB (the extra `lance`) is imported here alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from castor.index.filters import Filter
from castor.index.hits import hits_of
from castor.index.piece import Place

if TYPE_CHECKING:
    from castor.index.index import Index

SUFFIX = ".lance"
BATCH = 4096  # rows that are in memory at a time


def export(index: Index, place: str, progress: Callable[[int, int], None] = lambda done, total: None) -> int:
    """Write all pieces to `place`, a folder or address that ends with .lance; gives how many rows.

    A table that is there is replaced in one step at the end: readers see the old rows or the new ones. ValueError
    where LanceDB is missing, the name is none, or the place cannot be written.
    """
    database, name = _split(place)
    try:
        import lancedb
        import pyarrow as pa
    except ImportError as error:
        raise ValueError("an export needs LanceDB: pip install 'castor[lance]'") from error
    schema, total = _schema(index, pa), len(index.store.piece_ids())
    if not total:
        raise ValueError(f"{index.folder}: there is nothing in this index yet")
    rows = pa.RecordBatchReader.from_batches(schema, _batches(index, schema, total, progress))
    try:
        table = lancedb.connect(database).create_table(name, data=rows, schema=schema, mode="overwrite")
        return table.count_rows()
    except (OSError, RuntimeError) as error:  # its ways to say that a disk is full or a bucket is not ours
        raise ValueError(f"{place}: cannot be written ({error})") from error


def _split(place: str) -> tuple[str, str]:
    place = place if "://" in place else str(Path(place).expanduser())
    database, _, file = place.rstrip("/").rpartition("/")
    name = file.removesuffix(SUFFIX)
    if name == file or not name:
        raise ValueError(f"{place}: an export's name ends with {SUFFIX}, such as s3://bucket/found/things{SUFFIX}")
    return database or ("/" if place.startswith("/") else "."), name


def _schema(index: Index, pa: Any) -> Any:
    """What a row has; the header of the store as metadata."""
    kinds = {"page": pa.int32(), "first_line": pa.int32(), "last_line": pa.int32()}
    columns = [
        pa.field("id", pa.int64()),
        pa.field("vector", pa.list_(pa.float32(), index.store.header.dimensions)),
        *(pa.field(name, pa.string()) for name in ("path", "kind", "title", "text")),
        pa.field("date", pa.timestamp("s", tz="UTC")),
        pa.field("also", pa.list_(pa.string())),
        *(pa.field(each.name, kinds.get(each.name, pa.float64())) for each in fields(Place)),
    ]
    return pa.schema(columns, metadata={name: str(value) for name, value in asdict(index.store.header).items()})


def _batches(index: Index, schema: Any, total: int, progress: Callable[[int, int], None]) -> Iterator[Any]:
    import pyarrow as pa

    done = 0
    for ids, vectors_NE in index.store.vectors(size=BATCH):
        vector_of = dict(zip(ids.tolist(), vectors_NE.astype(np.float32), strict=True))
        hits = hits_of(index.store, dict.fromkeys(vector_of, 1.0), Filter())
        rows = [
            {
                "id": hit.piece,
                "vector": vector_of[hit.piece],
                "path": hit.path,
                "kind": hit.kind,
                "title": hit.title,
                "text": hit.text,
                "date": datetime.fromtimestamp(int(hit.date.timestamp()), UTC),
                "also": list(hit.also),
                **asdict(hit.place),
            }
            for hit in hits
        ]
        yield pa.RecordBatch.from_pylist(rows, schema=schema)
        done += len(ids)
        progress(done, total)
