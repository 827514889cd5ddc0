"""First or last? Which layer's gradients foretell what training rows did, by both papers' protocols."""

from headwater.evaluation.first_vs_last.study import Study, first_vs_last

__all__ = ["Study", "first_vs_last"]
