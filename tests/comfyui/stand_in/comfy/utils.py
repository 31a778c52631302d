from __future__ import annotations

PROGRESS_BAR_HOOK = None


class ProgressBar:
    def __init__(self, total, node_id=None):
        self.total = total
        self.hook = PROGRESS_BAR_HOOK
        self.node_id = node_id

    def update_absolute(self, value, total=None, preview=None):
        self.total = self.total if total is None else total
        if self.hook is not None:
            self.hook(min(value, self.total), self.total, preview, node_id=self.node_id)
