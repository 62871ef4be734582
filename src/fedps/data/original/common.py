"""The older name of `common_ps`."""

from fedps.data.original.common_ps import YamlHelper

__all__ = ["YamlHelper"]
