"""How far a call of a VAE has come, in tiles, over all calls of the coder that it is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Tell = Callable[[int, int], object]
"""Called with the number of tiles done and the number of all."""


class Progress:
    """Adds up the tiles of the calls of a coder: the chunks of a clip, the slices of a batch."""

    def __init__(self, tell: Tell, calls: int) -> None:
        self.tell = tell
        self.calls = calls
        self.before = 0
        """Tiles of calls that are over."""
        self.over = 0
        """Calls that are over."""

    def begin(self, tiles: int) -> Counter:
        """A call of so many tiles; those to come are taken to have as many."""
        return Counter(self, tiles, self.before + tiles * max(self.calls - self.over, 1))

    def end(self, counter: Counter) -> None:
        """A call is over."""
        self.before += counter.tiles
        self.over += 1

    def skip(self) -> None:
        """A call is over in which no tile was to be run."""
        self.over += 1


class Counter:
    """Counts the tiles of one call of a coder."""

    def __init__(self, progress: Progress, tiles: int, total: int) -> None:
        self.progress = progress
        self.tiles = tiles
        self.total = total
        self.done = 0

    def __call__(self) -> None:
        """One more."""
        self.done += 1
        self.progress.tell(self.progress.before + min(self.done, self.tiles), self.total)


@contextmanager
def told(progress: Tell | bool | None, calls: int) -> Iterator[Progress | None]:
    """Whom to tell: nobody, a function, or for ``True`` a bar of tqdm."""
    if progress is None or progress is False:
        yield None
        return
    if progress is not True:
        yield Progress(progress, calls)
        return
    from tqdm.auto import tqdm  # comes with diffusers; loaded only where a bar is asked for

    with tqdm(unit="tile", desc="VAE") as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield Progress(show, calls)
