"""Networks of timm, fresh or pretrained: ``timm:NAME``, and ``hf-hub:…`` from the Hugging Face Hub.

timm is an optional package: ``pip install 'compress[timm]'``.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from torch import nn

from compress.recipe.model_spec import HUB_PREFIX, TIMM_PREFIX
from compress.runtime.errors import UserError, did_you_mean, one_line

# Variables of the environment that name a proxy, which resolves the names of hosts.
PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


def timm_names() -> list[str]:
    """Return the names of timm's networks, as ``timm:resnet18``; none if timm is not installed."""
    if find_spec("timm") is None:
        return []
    return [f"{TIMM_PREFIX}{name}" for name in import_timm("timm:").list_models()]


def import_timm(network: str) -> Any:
    """Import timm for a network of this name.

    Raises:
        UserError: it is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise UserError(f"network {network!r} needs timm: pip install 'compress[timm]'") from error
    return timm


def build_timm(name: str, num_classes: int, pretrained: bool | str = False) -> nn.Module:
    """Build a network of timm: images (B, 3, H, W) to logits (B, num_classes).

    Args:
        name: ``timm:NAME``, with or without a tag of weights; or ``hf-hub:OWNER/NAME``.
        pretrained: load its default weights, or those of this tag. The classifier is new unless
            they have as many classes.

    Raises:
        UserError: timm is not installed, there is no such network or tag, or a download fails.

    Example:
        >>> build_timm("timm:mobilenetv3_small_100", 10)(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 10])
    """
    timm = import_timm(name)
    model: nn.Module
    if not pretrained and (known := _ARCHITECTURES.get(name)):
        model = timm.create_model(known.name, num_classes=num_classes, **known.options)
        return model
    # The configuration of a network on the Hub is downloaded, even if its weights are not.
    online = bool(pretrained) or name.startswith(HUB_PREFIX)
    if not online:
        model = timm.create_model(_find_name(timm, name, False), num_classes=num_classes)
        return model
    found = _find_name(timm, name, pretrained)
    if pretrained and not name.startswith(HUB_PREFIX):
        _check_weights(timm, name, found)
    with _downloads_of(name):
        if name.startswith(HUB_PREFIX):
            config = timm.models.load_model_config_from_hf(name.removeprefix(HUB_PREFIX))
            remember_architecture(name, config[1], config[2] or {})
        model = timm.create_model(found, pretrained=bool(pretrained), num_classes=num_classes)
    return model


@dataclass(frozen=True)
class Architecture:
    """What timm builds a network on the Hub from.

    Args:
        name: of timm's own network.
        options: of the function that builds it.
    """

    name: str
    options: dict[str, int | bool | str]


# Architectures of networks on the Hub, as the Hub or a weights file said.
_ARCHITECTURES: dict[str, Architecture] = {}
# Options that a weights file may have: none of them makes a network much larger, or loads a file.
OPTIONS = ("img_size", "in_chans", "global_pool", "class_token")
LARGEST = 1024


def known_architecture(name: str) -> dict[str, Any] | None:
    """Return the architecture of a network on the Hub as plain data, to keep in weights files.

    It is None for other networks, and for one with options that a weights file may not have.
    """
    known = _ARCHITECTURES.get(name)
    return None if known is None else {"name": known.name, "options": dict(known.options)}


def remember_architecture(name: str, architecture: object, options: object) -> None:
    """Let the network `name` on the Hub be built of this architecture, without asking the Hub.

    Whatever is not an architecture of timm, or has options beyond `OPTIONS`, is passed over.
    """
    if not name.startswith(HUB_PREFIX) or not isinstance(architecture, str):
        return
    plain = architecture.partition(".")[0]
    if not isinstance(options, dict) or not import_timm(name).is_model(plain):
        return
    if all(key in OPTIONS and _is_plain(value) for key, value in options.items()):
        _ARCHITECTURES[name] = Architecture(plain, dict(options))


def _is_plain(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, int) and 0 <= value <= LARGEST)


def timm_config(name: str, pretrained: bool | str) -> Any:
    """Return timm's configuration of some weights: ``num_classes``, ``mean``, ``std`` and others.

    Raises:
        UserError: as for `build_timm`.
    """
    timm = import_timm(name)
    found = _find_name(timm, name, pretrained)
    if not name.startswith(HUB_PREFIX):
        return timm.get_pretrained_cfg(found)
    with _downloads_of(name):
        config, _, _ = timm.models.load_model_config_from_hf(found.removeprefix(HUB_PREFIX))
    return timm.models.PretrainedCfg(**config)


def _find_name(timm: Any, name: str, pretrained: bool | str) -> str:
    """Return the name by which timm knows a network.

    Raises:
        UserError: it does not know the network.
    """
    if name.startswith(HUB_PREFIX):
        return name
    plain = name.removeprefix(TIMM_PREFIX)
    if not timm.is_model(plain.partition(".")[0]):
        raise UserError(
            f"unknown network {name!r}{did_you_mean(name, timm_names())};"
            " timm.list_models() lists all of timm's"
        )
    return f"{plain.partition('.')[0]}.{pretrained}" if isinstance(pretrained, str) else plain


def _check_weights(timm: Any, name: str, found: str) -> None:
    """Check that there are weights of timm's network `found`.

    Raises:
        UserError: there are none, or none of this tag.
    """
    plain, _, tag = found.partition(".")
    offered = timm.list_pretrained(f"{plain}.*")
    tags = [each.partition(".")[2] for each in offered] or timm.list_pretrained(plain)
    if not tags:
        raise UserError(f"no pretrained weights of {name!r} exist: leave `pretrained` out")
    if tag and tag not in tags:
        raise UserError(f"no pretrained weights {tag!r} of {name!r}; choose from {', '.join(tags)}")


@contextmanager
def _downloads_of(name: str) -> Iterator[None]:
    """Context for downloads of a network: at once from the cache if the Hub is out of reach.

    Raises:
        UserError: a download fails.
    """
    from huggingface_hub import constants

    loggers = [logging.getLogger(each) for each in ("huggingface_hub", "timm")]
    levels, offline = [logger.level for logger in loggers], constants.HF_HUB_OFFLINE
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        # Otherwise, a minute is spent on attempts.
        constants.HF_HUB_OFFLINE = offline or not _is_reachable(constants.ENDPOINT)
        yield
    # The Hub's client and timm raise many types.
    except Exception as error:
        raise UserError(
            f"network {name!r} cannot be downloaded ({one_line(error)[:80]}); what works without:"
            " a weights file (--teacher FILE, --student FILE), or `package.module:function` with"
            " weights of its own"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = offline
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _is_reachable(url: str) -> bool:
    """Return False if the host of `url` has no address and there is no proxy that may know one."""
    if any(os.environ.get(variable) for variable in PROXIES):
        return True
    with suppress(OSError):
        return bool(socket.getaddrinfo(urlsplit(url).hostname, 443))
    return False
