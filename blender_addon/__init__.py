# SPDX-License-Identifier: GPL-3.0-or-later
"""Marigold Kit for Blender: a depth mesh from one picture.

Nothing is imported before `register`, so that the parts without bpy, and `build`, can be used
outside Blender.
"""

from __future__ import annotations


def register() -> None:
    from .ui import registration

    registration.register()


def unregister() -> None:
    from .ui import registration

    registration.unregister()
