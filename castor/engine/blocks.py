"""Who holds which block of the cache, and which contents a block is known to have.

Each kind of layer has a pool. A request has a table in each: the blocks of its tokens in order, without those that
have left a sliding layer's window. Blocks are shared by counting who holds them, and only full ones are, so nothing
is ever copied. A block that nobody holds keeps its contents until it is needed, longest unused first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


class BlockPool:
    """Blocks 1 to `num_blocks` - 1 of one kind of layer; block 0 is never given out."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(1, num_blocks))  # in the order of their taking
        self._holders = [0] * num_blocks
        self._key_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds, those of known contents among them."""
        return len(self._free)

    def take(self) -> int:
        """A block to write to; what it held is forgotten."""
        block, _ = self._free.popitem(last=False)
        if (key := self._key_of.pop(block, None)) is not None:
            del self._block_of[key]
        self._holders[block] = 1
        return block

    def find(self, key: bytes) -> int | None:
        """The block with these contents, whether held or not."""
        return self._block_of.get(key)

    def hold(self, block: int) -> None:
        """One more holder."""
        self._holders[block] += 1
        self._free.pop(block, None)

    def release(self, block: int) -> None:
        """One holder less; the last one frees the block."""
        assert self._holders[block] > 0, f"block {block} is held by nobody"
        self._holders[block] -= 1
        if self._holders[block] == 0:
            self._free[block] = None
            if block not in self._key_of:  # nothing that could be used again: take it first
                self._free.move_to_end(block, last=False)

    def name(self, block: int, key: bytes) -> None:
        """State the contents of a full block; where another block is known to have them, nothing changes."""
        if key not in self._block_of and block not in self._key_of:
            self._block_of[key], self._key_of[block] = block, key

    def check(self, tables: Sequence[Table]) -> None:
        """Assert that exactly the blocks of these tables are held, as often as they occur."""
        held = [0] * self.num_blocks
        for table in tables:
            for block in table.blocks:
                held[block] += 1
        assert held == self._holders, "a block is lost, or given out twice"
        assert set(self._free) == {block for block in range(1, self.num_blocks) if not held[block]}


@dataclass
class Table:
    """The blocks of one request in one pool; the first `first` blocks of its tokens are not held any more."""

    first: int = 0
    blocks: list[int] = field(default_factory=list)
    num_named: int = 0  # blocks from the request's beginning whose contents have been stated

    @property
    def end(self) -> int:
        """Blocks of tokens in front of the next one to take."""
        return self.first + len(self.blocks)


Tables = dict[str, Table]


class Blocks:
    """The pools of all kinds of layers, and what a request does with its tables in them."""

    def __init__(self, num_blocks: Mapping[str, int], windows: Mapping[str, int | None], block_tokens: int) -> None:
        """`windows`: positions that a layer of each kind looks back, its own included (None: all)."""
        self.pools = {kind: BlockPool(number) for kind, number in num_blocks.items()}
        self.windows, self.block_tokens = windows, block_tokens

    def new_tables(self) -> Tables:
        """A table without blocks for every kind."""
        return {kind: Table() for kind in self.pools}

    def first_needed(self, kind: str, position: int) -> int:
        """The first block that a token at `position` looks at."""
        window = self.windows[kind]
        return 0 if window is None else max(0, position - window + 1) // self.block_tokens

    def most_held(self, kind: str, num_tokens: int, chunk: int) -> int:
        """Blocks that a request of `num_tokens` holds at most, when up to `chunk` tokens are computed at once."""
        window = self.windows[kind]
        whole = -(-num_tokens // self.block_tokens)
        return whole if window is None else min(whole, -(-(window + chunk) // self.block_tokens) + 1)

    def fits(self, num_tokens: int, chunk: int) -> bool:
        """Whether a request of `num_tokens` fits when it is alone."""
        return all(self.most_held(kind, num_tokens, chunk) <= pool.num_blocks - 1 for kind, pool in self.pools.items())

    def has_room(self, tables: Tables, num_tokens: int, chunk: int) -> bool:
        """Whether a request with these tables could now be computed up to `num_tokens`."""
        return all(
            self.most_held(kind, num_tokens, chunk) - len(tables[kind].blocks) <= pool.num_free
            for kind, pool in self.pools.items()
        )

    def grow(self, tables: Tables, num_tokens: int) -> bool:
        """Take the blocks that `num_tokens` need in every pool; False, and none taken, where one has too few."""
        needed = {kind: -(-num_tokens // self.block_tokens) - table.end for kind, table in tables.items()}
        if any(number > self.pools[kind].num_free for kind, number in needed.items()):
            return False
        for kind, number in needed.items():
            tables[kind].blocks += [self.pools[kind].take() for _ in range(number)]
        return True

    def slide(self, tables: Tables, num_computed: int) -> None:
        """Release what no token from position `num_computed` on looks at."""
        for kind, table in tables.items():
            gone = self.first_needed(kind, num_computed) - table.first
            if gone > 0:
                for block in table.blocks[:gone]:
                    self.pools[kind].release(block)
                table.blocks = table.blocks[gone:]
                table.first += gone

    def release(self, tables: Tables) -> None:
        """Release everything; the end first, so that it is also forgotten first."""
        for kind, table in tables.items():
            for block in reversed(table.blocks):
                self.pools[kind].release(block)
            tables[kind] = Table()

    def name(self, tables: Tables, keys: Sequence[bytes]) -> None:
        """State the contents of the first `len(keys)` blocks of a request."""
        for kind, table in tables.items():
            for index in range(max(table.first, table.num_named), len(keys)):
                self.pools[kind].name(table.blocks[index - table.first], keys[index])
            table.num_named = len(keys)

    def reuse(self, tables: Tables, keys: Sequence[bytes]) -> int:
        """Hold the longest known beginning with the contents `keys`; give its number of tokens.

        A sliding layer needs only the blocks that what follows looks at.
        """
        runs = {kind: self._known_runs(pool, keys) for kind, pool in self.pools.items()}
        for number in range(len(keys), 0, -1):
            first = {kind: self.first_needed(kind, number * self.block_tokens) for kind in self.pools}
            if all(runs[kind][number] >= number - first[kind] for kind in runs):
                for kind, pool in self.pools.items():
                    blocks = [pool.find(key) for key in keys[first[kind] : number]]
                    tables[kind] = Table(first[kind], [block for block in blocks if block is not None], number)
                    for block in tables[kind].blocks:
                        pool.hold(block)
                return number * self.block_tokens
        return 0

    def _known_runs(self, pool: BlockPool, keys: Sequence[bytes]) -> list[int]:
        """How many blocks in a row, up to each one, are known; entry 0 stands before the first."""
        runs = [0]
        for key in keys:
            runs.append(0 if pool.find(key) is None else runs[-1] + 1)
        return runs

    def check(self, tables: Sequence[Tables]) -> None:
        """Assert that these tables hold all that is held."""
        for kind, pool in self.pools.items():
            pool.check([table[kind] for table in tables])
