"""How far a call has come, told over all that it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .settings import Progress


class Steady:
    """Adds up the tiles of several calls of a coder: the chunks of one clip."""

    def __init__(self, tell: Progress, calls: int) -> None:
        self.tell = tell
        self.calls = calls
        self.before = 0
        """Tiles of calls that are over."""
        self.over = 0
        """Calls that are over."""
        self.total = 0

    def begin(self, tiles: int) -> Counter:
        """A call of so many tiles; those to come are taken to have as many."""
        left = max(self.calls - self.over, 1)
        self.total = self.before + tiles * left
        return Counter(self, tiles)

    def end(self, counter: Counter) -> None:
        """A call is over."""
        self.before += counter.tiles
        self.over += 1


class Counter:
    """Counts the tiles of one call of a coder."""

    def __init__(self, steady: Steady, tiles: int) -> None:
        self.steady = steady
        self.tiles = tiles
        self.count = 0

    def __call__(self) -> None:
        """One more."""
        self.count += 1
        done = self.steady.before + min(self.count, self.tiles)
        self.steady.tell(done, self.steady.total)


@contextmanager
def told(progress: Progress | bool | None, calls: int) -> Iterator[Steady | None]:
    """Whom to tell: nobody, a function, or a bar of tqdm for ``True``."""
    if progress is None or progress is False:
        yield None
        return
    if progress is not True:
        yield Steady(progress, calls)
        return
    from tqdm.auto import tqdm  # a dependency of diffusers, loaded only where a bar is asked for

    with tqdm(unit="tile", desc="VAE") as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield Steady(show, calls)
