"""Which process runs which tests: those that share a baseline stay together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xdist.scheduler import LoadScopeScheduling


class BaselineScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Hands tests out in groups, in the order in which they were collected.

    xdist 3.8's own ``loadgroup`` writes the group into the id of a test, through an attribute that
    pytest has no longer had since 9.2 (``Node._nodeid``), so that every test is a group. Here the
    group is looked up, and ids stay unchanged.
    """

    def __init__(self, config: Any, log: Any, group_of: Callable[[str], str]) -> None:
        config.option.loadscopereorder = False  # ours is by cost, xdist's by number of tests
        super().__init__(config, log)
        self._group_of = group_of

    def _split_scope(self, nodeid: str) -> str:
        return self._group_of(nodeid)

    def remove_node(self, node: Any) -> str | None:
        """Give other processes the tests left by one that ended, except the one it died in.

        xdist would run that test again, and so lose one process after the other.
        """
        if self.collection is None:
            self.registered_collections.pop(node, None)  # its replacement collects again
        lost: str | None = None
        workload = self.assigned_work.pop(node)
        for tests in workload.values():
            for nodeid, done in tests.items():
                if lost is None and not done:
                    lost, tests[nodeid] = nodeid, True
        left = {name: tests for name, tests in workload.items() if not all(tests.values())}
        self.workqueue.update(left)
        for other in self.assigned_work:
            self._reschedule(other)
        return lost

    def _reschedule(self, node: Any) -> None:
        """Give a process more to do, and let it end where there is no more.

        A process that replaces a dead one is handed a single group by xdist, even one that has
        been run to its end already, and a process with no more than one test at hand waits for
        another: it would wait for ever.
        """
        if node.shutting_down or node not in self.registered_collections:
            return
        for group in [name for name, tests in self.workqueue.items() if all(tests.values())]:
            del self.workqueue[group]
        while self.workqueue and self._pending_of(self.assigned_work[node]) <= 2:
            self._assign_work_unit(node)
        if not self.workqueue:
            node.shutdown()
