"""Training and retraining: the only place that changes weights."""

from headwater.training.evaluate import Evaluation, evaluate
from headwater.training.predict import Predictions, predict
from headwater.training.retrain import retrain
from headwater.training.settings import TrainSettings
from headwater.training.train import train

__all__ = ["Evaluation", "Predictions", "TrainSettings", "evaluate", "predict", "retrain", "train"]
