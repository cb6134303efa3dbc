"""Sharing a budget among layers."""

from prunus.allocation.base import Allocation, Global, Key, Survey

__all__ = ["Allocation", "Global", "Key", "Survey"]
