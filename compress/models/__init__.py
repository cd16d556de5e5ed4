"""Networks by name: torchvision's own wherever it has them, and a person's own by `package.module:function`."""

from compress.models.networks import Network, build, names

__all__ = ["Network", "build", "names"]
