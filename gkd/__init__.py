"""gkd: generalised knowledge distillation across label spaces."""

__version__ = "0.1.0"
