"""A bank of retrainings, the ground truth that methods are graded with: the same for every method."""

from headwater.evaluation.bank.bank import RetrainBank
from headwater.evaluation.bank.budget import Estimate, estimate
from headwater.evaluation.bank.protocol import Protocol, cut_words, half, leave_k_out, remove
from headwater.evaluation.bank.results import Results

__all__ = ["Estimate", "Protocol", "Results", "RetrainBank", "cut_words", "estimate", "half", "leave_k_out", "remove"]
