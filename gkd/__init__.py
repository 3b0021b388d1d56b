"""gkd: generalised knowledge distillation across label spaces."""

from gkd.core.version import VERSION as __version__

__all__ = ["__version__"]
