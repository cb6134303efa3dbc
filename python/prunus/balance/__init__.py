"""The sparsity of every layer, so that the model as a whole gets as fast as asked at the least error."""

from prunus.balance.report import BalanceReport
from prunus.balance.verb import Target, balance_

__all__ = ["BalanceReport", "Target", "balance_"]
