"""The engine for many cameras: a Milvus server, one collection of one database, a partition for each site.

Searches are Bounded: they see what anyone wrote more than about five seconds ago (the server's grace), mostly sooner;
Strong would cost 200 ms each. A client sees at once what it wrote itself. All else is Strong.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stra.extras import install_command
from edge_stra.gallery.checks import (
    MAX_NAME_BYTES,
    check_k,
    check_maker,
    check_same_maker,
    check_threshold,
    check_time,
    checked_entries,
    checked_name,
    checked_rows,
    kept_threshold,
)
from edge_stra.gallery.naming import largest_number
from edge_stra.gallery.open import milvus_credentials
from edge_stra.gallery.store import Entry, Maker, Match
from edge_stra.spec import DataError, GalleryError, MissingError

COLLECTION = "edge_stra_gallery"
FORMAT = "edge-stra.gallery/1"
THRESHOLD = "edge_stra.threshold"  # a property of the collection
NUMBER = "edge_stra.number."  # and a property for each prefix of names: the largest number that was given
INDEX = {"M": 16, "efConstruction": 200}
EF = 128  # candidates that a search of the graph keeps, or twice k where that is more
CONNECT_S, CALL_S, LOAD_S = 5.0, 30.0, 120.0
SEARCH_S = 3.0  # a live picture stands still meanwhile, and pymilvus asks a server that is down until then
OWN_WRITES_S = 10.0  # above the grace of Bounded: so long a search must wait for what this client wrote
BATCH = 500
FIELDS = ["identity", "camera", "site", "time_s"]


class MilvusGallery:
    """`Gallery` on a server. Raises GalleryError, DataError, MissingError."""

    def __init__(self, address: str, database: str, shown: str, maker: Maker | None, create: bool = True) -> None:
        self.uri = shown
        self._pymilvus = import_pymilvus()
        self._faults = faults_of(self._pymilvus)
        with self._told():
            self._client = self._pymilvus.MilvusClient(
                uri=address, db_name=database, timeout=CONNECT_S, dedicated=True, **milvus_credentials()
            )
        try:
            with self._told():
                if not self._client.has_collection(COLLECTION, timeout=CONNECT_S):
                    if maker is None or not create:
                        raise GalleryError(f"{shown} must hold a gallery, but holds none yet; add someone first")
                    self._create(maker)
                self.maker = parse_description(shown, self._describe()["description"])
                if maker is not None:
                    check_same_maker(shown, self.maker, maker)
                self._client.load_collection(COLLECTION, timeout=LOAD_S)
                self._partitions = set(self._client.list_partitions(COLLECTION, timeout=CALL_S))
        except BaseException:
            self._client.close()
            raise
        self._wrote_s = -OWN_WRITES_S

    def add(self, entries: Sequence[Entry]) -> int:
        kept = checked_entries(entries, self.maker.dimension)
        by_site: dict[str, list[Entry]] = {}
        for entry in kept:
            by_site.setdefault(entry.site, []).append(entry)
        done: list[int] = []
        try:
            with self._told():
                for site, group in by_site.items():
                    rows = [{name: getattr(e, name) for name in (*FIELDS, "embedding")} for e in group]
                    answer = self._client.insert(COLLECTION, rows, partition_name=self._partition(site), timeout=CALL_S)
                    done.extend(answer["ids"])
        except GalleryError as error:
            self._take_back(done, error)
            raise
        finally:
            self._wrote_s = time.monotonic()
        return len(kept)

    def search(self, embedding: NDArray[np.float32], k: int = 5, site: str | None = None) -> list[Match]:
        check_k(k)
        (unit,) = checked_rows([embedding], self.maker.dimension)
        places: dict[str, Any] = {}
        if site is not None:
            places["partition_names"] = [partition_name(checked_name("site", site, True))]
            with self._told():
                if not self._has_partition(places["partition_names"][0], SEARCH_S):
                    return []
        own = time.monotonic() - self._wrote_s < OWN_WRITES_S
        with self._told():
            (hits,) = self._client.search(
                COLLECTION, [unit], limit=k, output_fields=FIELDS, timeout=SEARCH_S,
                search_params={"metric_type": "L2", "params": {"ef": max(EF, 2 * k)}},
                consistency_level="Session" if own else "Bounded", **places,
            )  # fmt: skip
        rows = [(float(max(0.0, hit["distance"])) ** 0.5, hit["entity"]) for hit in hits]  # L2 comes squared
        return [Match(e["identity"], distance, e["camera"], e["time_s"], e["site"]) for distance, e in rows]

    def forget(self, identity: str) -> int:
        return self._remove(f"identity == {literal(checked_name('identity', identity))}")

    def rename(self, identity: str, name: str) -> int:
        """Rows can't be changed in place: they are added under the new name, then removed under the old one.

        In between a search finds both. Where it fails in between, some are there under both names, and to rename again
        ends it.
        """
        old, new = checked_name("identity", identity), checked_name("identity", name)
        rows = list(self._rows(["number", *FIELDS, "embedding"], BATCH, f"identity == {literal(old)}"))
        there = {same(row) for row in self._rows([*FIELDS, "embedding"], BATCH, f"identity == {literal(new)}")}
        for start in range(0, len(rows) if new != old else 0, BATCH):
            part = rows[start : start + BATCH]
            missing = [entry_of({**row, "identity": new}) for row in part if same(row) not in there]
            if missing:  # else an earlier rename got so far
                self.add(missing)
            self._remove(f"number in {[int(row['number']) for row in part]}")  # not what somebody adds meanwhile
        return len(rows)

    def purge(self, before_s: float) -> int:
        check_time(before_s)
        return self._remove(f"time_s < {float(before_s)!r}")

    def count(self) -> int:
        return self._count("")

    def identities(self) -> dict[str, int]:
        return dict(sorted(Counter(row["identity"] for row in self._rows(["identity"], 10 * BATCH)).items()))

    def take_number(self, prefix: str) -> int:
        """Two clients that ask for one prefix at once may get one number: a prefix is of one camera."""
        number = max(largest_number(self.identities(), prefix), self.given(prefix)) + 1
        self.set_given(prefix, number)
        return number

    def given(self, prefix: str) -> int:
        with self._told():
            kept = str(self._describe().get("properties", {}).get(number_key(prefix), "0"))
        if not (kept.isascii() and kept.isdecimal() and len(kept) < 19):
            raise GalleryError(f"{self.uri} must count the names it gave, but holds {kept[:40]!r}; it was changed")
        return int(kept)

    def set_given(self, prefix: str, number: int) -> None:
        most = max(number, self.given(prefix))  # a camera may have taken more meanwhile
        with self._told():
            self._client.alter_collection_properties(COLLECTION, {number_key(prefix): str(most)}, timeout=CALL_S)

    def unfinished(self) -> bool:
        return False

    def entries(self) -> Iterator[Entry]:
        for row in self._rows([*FIELDS, "embedding"], BATCH):
            yield entry_of(row)

    def threshold(self) -> float | None:
        with self._told():
            kept = self._describe().get("properties", {}).get(THRESHOLD)
        return None if kept is None else kept_threshold(self.uri, kept)

    def set_threshold(self, distance: float) -> None:
        check_threshold(distance)
        with self._told():
            self._client.alter_collection_properties(COLLECTION, {THRESHOLD: repr(float(distance))}, timeout=CALL_S)

    def close(self) -> None:
        self._client.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turns pymilvus' errors into GalleryError, and those of grpc that it lets through: a server that is silent."""
        try:
            yield
        except self._faults as error:
            text = " ".join(said_by(error).split())[:200]
            raise GalleryError(
                f"{self.uri} can't be used as a gallery: {text}; is it a Milvus server, and up?"
            ) from error

    def _create(self, maker: Maker) -> None:
        kinds = self._pymilvus.DataType
        said = {"format": FORMAT, "sha256": maker.sha256, "dimension": maker.dimension, "name": maker.name}
        schema = self._client.create_schema(description=json.dumps(said), enable_dynamic_field=False)
        schema.add_field("number", kinds.INT64, is_primary=True, auto_id=True)
        for name in ("identity", "camera", "site"):
            schema.add_field(name, kinds.VARCHAR, max_length=MAX_NAME_BYTES)
        schema.add_field("time_s", kinds.DOUBLE)
        schema.add_field("embedding", kinds.FLOAT_VECTOR, dim=maker.dimension)
        index = self._client.prepare_index_params()
        index.add_index("embedding", index_type="HNSW", metric_type="L2", params=INDEX)
        self._client.create_collection(
            COLLECTION, schema=schema, index_params=index, consistency_level="Bounded", timeout=LOAD_S
        )

    def _describe(self) -> dict[str, Any]:
        return dict(self._client.describe_collection(COLLECTION, timeout=CALL_S))

    def _has_partition(self, name: str, timeout_s: float = CALL_S) -> bool:
        """Asks the server only for a name that is new here: another client may have made it."""
        if name not in self._partitions and self._client.has_partition(COLLECTION, name, timeout=timeout_s):
            self._partitions.add(name)
        return name in self._partitions

    def _partition(self, site: str) -> str:
        name = partition_name(site)
        if not self._has_partition(name):
            self._client.create_partition(COLLECTION, name, timeout=CALL_S)
            self._partitions.add(name)
        return name

    def _take_back(self, numbers: list[int], error: GalleryError) -> None:
        """Removes what was inserted at the first sites of an add that failed at a later one."""
        if numbers:
            try:
                self._client.delete(COLLECTION, ids=numbers, timeout=CALL_S)
            except self._faults as second:
                raise GalleryError(
                    f"{error}; {len(numbers)} of the embeddings were kept, and stay: {said_by(second)}"
                ) from error

    def _remove(self, condition: str) -> int:
        """Removes rows and returns once no search can find them; their bytes go when the server has compacted."""
        if not (gone := self._count(condition)):
            return 0
        with self._told():
            self._client.delete(COLLECTION, filter=condition, timeout=CALL_S)
        self._wrote_s = time.monotonic()
        until_s = time.monotonic() + CALL_S
        while left := self._count(condition):
            if time.monotonic() > until_s:
                raise GalleryError(
                    f"{self.uri} still holds {left} of {gone} embeddings {CALL_S:.0f} s after; try again"
                )
        # A server that limits how often it is asked for these compacts by itself, later.
        with contextlib.suppress(*self._faults):
            self._client.flush(COLLECTION, timeout=CALL_S)
            self._client.compact(COLLECTION, timeout=CALL_S)
        return gone

    def _count(self, condition: str) -> int:
        with self._told():
            rows = self._client.query(
                COLLECTION, condition, output_fields=["count(*)"], consistency_level="Strong", timeout=CALL_S
            )
        return int(rows[0]["count(*)"])

    def _rows(self, fields: list[str], batch: int, condition: str = "number >= 0") -> Iterator[dict[str, Any]]:
        self._count("")  # an old server gives iterators no time of its own: this waits for all writes before now
        with self._told():
            pages = self._client.query_iterator(
                COLLECTION, batch_size=batch, filter=condition, output_fields=fields, timeout=CALL_S,
                consistency_level="Strong",
            )  # fmt: skip
        try:
            while True:
                with self._told():
                    page = pages.next()
                if not page:
                    return
                yield from page
        finally:
            pages.close()


def import_pymilvus() -> Any:
    try:
        pymilvus = importlib.import_module("pymilvus")
    except ImportError as error:
        raise MissingError(f"a milvus:// gallery needs pymilvus; run: {install_command('milvus')}") from error
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs what it raises, too
    return pymilvus


def faults_of(pymilvus: Any) -> tuple[type[Exception], ...]:
    """What its calls raise where the server does not do what is asked."""
    return pymilvus.MilvusException, importlib.import_module("grpc").RpcError


def said_by(error: Any) -> str:
    """What a fault says of itself, whichever of the two it is."""
    if callable(details := getattr(error, "details", None)):
        return str(details() or error.code())
    return str(getattr(error, "message", "") or error)


def entry_of(row: dict[str, Any]) -> Entry:
    vector = np.array(row["embedding"], np.float32)
    return Entry(row["identity"], vector, row["camera"], row["time_s"], row["site"])


def same(row: dict[str, Any]) -> tuple[str, str, float, bytes]:
    """What two rows of one picture have in common, whoever they are of."""
    return row["camera"], row["site"], row["time_s"], np.array(row["embedding"], np.float32).tobytes()


def partition_name(site: str) -> str:
    """Milvus takes letters, digits and underscores alone; a site may have any name."""
    return f"site_{hashlib.sha256(site.encode()).hexdigest()[:24]}"


def number_key(prefix: str) -> str:
    return NUMBER + hashlib.sha256(prefix.encode()).hexdigest()[:32]


def literal(name: str) -> str:
    """A name as a string of Milvus' expressions; names hold no control characters (`checked_name`)."""
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def parse_description(shown: str, description: str) -> Maker:
    """The maker that a collection's description holds. Raises GalleryError where it is not one of this project's."""
    try:
        said = json.loads(description)
        if said["format"] != FORMAT:
            raise GalleryError(
                f"{shown} holds a gallery of {said['format']!r}, but this edge-stra knows {FORMAT}; upgrade"
            )
        maker = Maker(str(said["sha256"]), int(said["dimension"]), str(said["name"]))
        check_maker(maker)
    except (ValueError, KeyError, TypeError, RecursionError, DataError) as error:
        raise GalleryError(f"{shown} has a collection {COLLECTION} that is no gallery: {error!r}; rename it") from error
    return maker
