# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine's process, its Python, the training-set renderer: all that runs in the background."""
