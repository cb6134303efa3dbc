"""Recovery: training without labels that brings a pruned model back to its teacher."""

from prunus.recover.base import RecoverError, Recovery
from prunus.recover.data import Batches, Texts
from prunus.recover.distill import Distill
from prunus.recover.gradual import Gradual
from prunus.recover.reconstruct import Reconstruct
from prunus.recover.refit import Refit
from prunus.recover.report import RecoverReport
from prunus.recover.verb import recover_

__all__ = [
    "Batches",
    "Distill",
    "Gradual",
    "Reconstruct",
    "RecoverError",
    "RecoverReport",
    "Recovery",
    "Refit",
    "Texts",
    "recover_",
]
