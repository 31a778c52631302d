# SPDX-License-Identifier: GPL-3.0-or-later
"""The reason why a button is grey."""

from __future__ import annotations

from typing import Any

import bpy


def refuse(operator: Any, words: str) -> bool:
    """For `poll`: False, with the reason for the tooltip in the user's language."""
    operator.poll_message_set(bpy.app.translations.pgettext_tip(words))
    return False
