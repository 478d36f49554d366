"""A diagnosis: a short training of one's own model, and what the instruments say about it."""

from shoal.diagnosis.diagnose import Diagnosis, Interrupted, Progress, diagnose
from shoal.diagnosis.measures import MEASURES

__all__ = ["MEASURES", "Diagnosis", "Interrupted", "Progress", "diagnose"]
