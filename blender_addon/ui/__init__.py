# SPDX-License-Identifier: GPL-3.0-or-later
"""Panels, preferences, operators, menus and translations."""
