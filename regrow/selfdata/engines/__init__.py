"""The engines that write answers, behind one small interface."""

from regrow.selfdata.engines.base import Engine, Generation, Sampling
from regrow.selfdata.engines.spec import EndpointSpec, VllmSpec
from regrow.selfdata.engines.transformers import TransformersEngine

__all__ = ["EndpointSpec", "Engine", "Generation", "Sampling", "TransformersEngine", "VllmSpec"]
