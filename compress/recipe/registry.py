"""What a recipe or a flag may name, for those who check it before torch is imported: a line here for each entry of
`compress.distillation.methods.METHODS`, `compress.pruning.importance.IMPORTANCES` and `compress.data.sources.SOURCES`."""

from pathlib import Path
from typing import Literal

from compress.runtime.errors import UserError, nearest

MethodName = Literal["labels", "kd", "dkd", "simultaneous", "stagewise", "fitnets", "attention", "fsp", "overhaul"]
ImportanceName = Literal["magnitude", "taylor", "hessian", "bn-scale", "lamp", "random"]
DATA_SETS = (
    "fashion-mnist",
    "mnist",
    "cifar10",
    "cifar100",
    "imagenette",
    "imagenette-320",
    "imagenette-160",
    "imagewoof",
    "imagewoof-320",
    "imagewoof-160",
    "imagenet",
)


def check_data(data: str | None) -> Path | None:
    """See whether `data` is one of `DATA_SETS`, or nothing, or ``folder:PATH``: then the directory comes back.

    Raises:
        UserError: there is no such directory, or no such data set.
    """
    if data is None:
        return None
    if data.startswith("folder:"):
        path = Path(data.removeprefix("folder:")).expanduser()
        if not path.is_dir():
            raise UserError(f"{data}: there is no directory {path}")
        return path
    if data not in DATA_SETS:
        known = ", ".join([*DATA_SETS, "folder:PATH"])
        raise UserError(f"no dataset called {data!r}{nearest(data, DATA_SETS)}; there are {known}")
    return None
