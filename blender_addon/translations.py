# SPDX-License-Identifier: GPL-3.0-or-later
"""The interface in other languages."""

from __future__ import annotations

TRANSLATIONS: dict[str, dict[tuple[str, str], str]] = {}
