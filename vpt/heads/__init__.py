"""From features to what a task wants."""

from vpt.heads.base import Head, build_head
from vpt.heads.linear import LinearHead

__all__ = ["Head", "LinearHead", "build_head"]
