"""Moved to the plain module `hiresmed.volumes` (inferers need it too); edit it there."""

from ..volumes import *  # noqa: F403
